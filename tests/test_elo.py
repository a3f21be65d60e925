"""Ratings against an independent maximiser, and against the truth on leagues drawn from the model."""

import numpy as np
import pytest
import scipy.optimize

import tz

SCALE = 400 / np.log(10)


def draw_league(rng, elo, num_games, draw_rate=0.0):
    """Draws the results of the games of each pair. The ratings decide the expected score, with or without draws.

    `num_games` and `draw_rate` are numbers or matrices; only the lower triangle of a matrix is used.
    """
    num_games, draw_rate = (np.broadcast_to(x, (len(elo), len(elo))) for x in (num_games, draw_rate))
    wins, draws = np.zeros((2, len(elo), len(elo)), int)
    for i in range(len(elo)):
        for j in range(i):
            score = 1 / (1 + 10 ** ((elo[j] - elo[i]) / 400))
            drawn = draw_rate[i, j] * 2 * min(score, 1 - score)
            won, drew, lost = rng.multinomial(num_games[i, j], [score - drawn / 2, drawn, 1 - score - drawn / 2])
            wins[i, j], wins[j, i], draws[i, j], draws[j, i] = won, lost, drew, drew
    return wins, draws


def maximise(wins, draws):
    """Finds the same ratings by a general optimiser, with the log likelihood written out pair by pair."""
    n = len(wins)
    games = wins + wins.T + draws

    def cost(rating):
        rating, total = np.append(0.0, rating), 0.0
        for i in range(n):
            for j in range(n):
                prior = games[i, j] * (1 / games[i].sum() + 1 / games[j].sum()) / 2
                points = wins[i, j] + draws[i, j] / 2 + prior / 2
                total -= points * np.log(1 / (1 + np.exp(rating[j] - rating[i])))
        return total

    return SCALE * np.append(0.0, scipy.optimize.minimize(cost, np.zeros(n - 1), tol=1e-10).x)


@pytest.mark.parametrize("draw_rate", [0.0, 0.7])
def test_ratings_are_those_of_an_independent_maximiser(draw_rate):
    rng = np.random.default_rng(1)
    results = draw_league(rng, rng.normal(0, 300, 6), 20, draw_rate)
    np.testing.assert_allclose(tz.matches.fit_elo(*results).elo, maximise(*results), atol=0.1)


NEIGHBOURS = np.abs(np.subtract.outer(np.arange(6), np.arange(6))) <= 2


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize(
    ("num_games", "draw_rate"),
    [(40, 0.0), (40, 0.7), (32 * NEIGHBOURS, 0.3)],
    ids=["no draws", "draws", "few pairs"],
)
def test_true_ratings_lie_within_their_intervals_at_the_stated_rate(num_games, draw_rate, confidence):
    """300 leagues of 6 players: 1,500 intervals, whose rate has a standard error of about 1 % (they are dependent)."""
    rng, inside = np.random.default_rng(2), []
    for _ in range(300):
        elo = np.append(0.0, rng.normal(0, 200, 5))
        ratings = tz.matches.fit_elo(*draw_league(rng, elo, num_games, draw_rate), confidence=confidence)
        inside += list((ratings.low <= elo) & (elo <= ratings.high))[1:]
    assert confidence - 0.03 < np.mean(inside) < confidence + 0.04


def test_draws_of_others_do_not_narrow_an_interval():
    """Five equal players that draw nearly always, and an anchor 400 Elo below that never does."""
    rng, elo, inside = np.random.default_rng(5), np.array([0.0] + 5 * [400.0]), []
    draw_rate = np.where(np.arange(6) == 0, 0.0, 0.95)  # a column in the lower triangle belongs to the weaker player
    for _ in range(300):
        ratings = tz.matches.fit_elo(*draw_league(rng, elo, 16, draw_rate))
        inside += list((ratings.low <= elo) & (elo <= ratings.high))[1:]
    assert 0.92 < np.mean(inside) <= 0.99


def test_the_intervals_of_who_drew_and_of_who_won_all_games():
    """Twenty draws give a narrower interval than twenty wins; both are computed by hand from the model."""
    draws, wins = np.array([[0, 20], [20, 0]]), np.array([[0, 0], [20, 0]])
    drew, won = tz.matches.fit_elo(0 * draws, draws), tz.matches.fit_elo(wins, 0 * draws)
    np.testing.assert_allclose(drew.high[1], 1.96 * SCALE * np.sqrt((1 - 20 / 22) * 21 / 4) / (21 / 4), rtol=1e-3)
    p = 20.5 / 21  # the prior counts as one game
    np.testing.assert_allclose(won.elo[1], SCALE * np.log(p / (1 - p)), rtol=1e-3)
    np.testing.assert_allclose(won.high[1] - won.elo[1], 1.96 * SCALE / np.sqrt(21 * p * (1 - p)), rtol=1e-3)


def test_draws_narrow_the_intervals():
    rng = np.random.default_rng(3)
    width = [
        np.mean(r.high - r.low) for r in (tz.matches.fit_elo(*draw_league(rng, np.zeros(5), 50, d)) for d in (0.0, 0.9))
    ]
    assert width[1] < 0.5 * width[0]


def test_who_won_every_game_has_a_finite_rating_and_a_wide_interval():
    wins = np.array([[0, 0], [20, 0]])
    ratings = tz.matches.fit_elo(wins, np.zeros((2, 2)))
    assert ratings.elo[0] == ratings.low[0] == ratings.high[0] == 0
    assert 400 < ratings.elo[1] < 1500 and ratings.low[1] > 0 and np.isfinite(ratings.high[1])
    assert tz.matches.fit_elo(10 * wins, np.zeros((2, 2))).elo[1] > ratings.elo[1]


def test_a_rating_of_those_who_never_met_is_through_others():
    """A beats B 3:1 and B beats C 3:1: each difference is a little less than 191 Elo because of the prior."""
    wins = np.zeros((3, 3))
    wins[1, 0] = wins[2, 1] = 300
    wins[0, 1] = wins[1, 2] = 100
    ratings = tz.matches.fit_elo(wins, np.zeros((3, 3)))
    np.testing.assert_allclose(ratings.elo, [0, 190.8, 381.7], atol=3)
    assert ratings.high[2] - ratings.low[2] > ratings.high[1] - ratings.low[1]


def test_results_that_make_no_league_are_refused():
    two, apart = np.array([[0, 1], [2, 0]]), np.zeros((3, 3))
    apart[0, 1] = 1
    for wins, draws, message in [
        (np.zeros((2, 3)), np.zeros((2, 3)), r"found wins of shape \(2, 3\) .*, expected \[n, n\]"),
        (np.zeros((1, 1)), np.zeros((1, 1)), "n at least 2"),
        (two, two, r"draws\[i, j\] equal to draws\[j, i\]"),
        (-two, 0 * two, "expected numbers of 0 or more"),
        (apart, 0 * apart, "player 2 is connected to the first by no games"),
    ]:
        with pytest.raises(ValueError, match=message):
            tz.matches.fit_elo(wins, draws)
