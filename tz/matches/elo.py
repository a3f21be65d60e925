"""Fits Elo ratings to the results of a tournament, by maximum likelihood, with confidence intervals."""

import statistics

import equinox as eqx
import numpy as np
from jaxtyping import Float

_SCALE = 400 / np.log(10)  # Elo points in one unit of the natural log odds, in which ratings are fitted


class Ratings(eqx.Module):
    """Holds the Elo ratings of `n` players, on a scale where the first player has 0.

    `print(ratings)` shows one line for each player.

    **Fields:**

    - `elo`: `[n]`, the ratings. A player who is 400 points better than another is expected to score 10 / 11.
    - `low`, `high`: `[n]`, the ends of the confidence interval of the difference to the first player. They are 0 for
        the first player itself.
    """

    elo: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]

    def __str__(self) -> str:
        rows = zip(self.elo, self.low, self.high, strict=True)
        return "\n".join(f"{i:>3} {x:+6.0f} ({low:+.0f} to {high:+.0f})" for i, (x, low, high) in enumerate(rows))


def fit_elo(wins: np.ndarray, draws: np.ndarray, *, confidence: float = 0.95) -> Ratings:
    """Fits Elo ratings to the results of games, by maximum likelihood.

    In the model, player `i` scores `1 / (1 + 10 ** ((elo_j - elo_i) / 400))` on average in a game against `j`. This is
    the model of Bradley and Terry, *Rank analysis of incomplete block designs* (1952), with a draw as half a win. A
    weak prior adds one drawn game per player on average, spread over its opponents; without it, a player who won every
    game would have an infinite rating.

    Results with many draws scatter less than wins and losses do, so draws narrow the intervals. To keep a few draws
    from looking certain, the rate of draws of a pair is taken over its games and two more games without a draw. All
    games count as independent, even the two games of one opening.

    **Arguments:**

    - `wins`: `[n, n]`, the number of games that the row's player won against the column's player.
    - `draws`: `[n, n]`, the number of drawn games, symmetric. Games that were not finished belong in neither.
    - `confidence`: the probability that an interval contains the true difference to the first player.

    **Returns:** [`tz.matches.Ratings`][], in Elo points.

    **Raises:** `ValueError` if the shapes are wrong, a number is negative, `draws` is not symmetric, a player has games
    against itself, or a player is not connected to the first by any chain of games.
    """
    wins, draws = np.asarray(wins, float), np.asarray(draws, float)
    _check_results(wins, draws)
    games = wins + wins.T + draws
    total = games.sum(1)
    # The drawn games of the prior: each player adds half a game to its pairs, in proportion to the games played there.
    virtual = games * (1 / total[:, None] + 1 / total[None]) / 2
    points, played = wins + (draws + virtual) / 2, games + virtual

    def expected(rating):
        return 1 / (1 + np.exp(rating[None] - rating[:, None]))

    def log_likelihood(rating):
        return -np.sum(points * np.logaddexp(0, rating[None] - rating[:, None]))

    # Without the first row and column: the first rating is fixed at 0, and a shift of all ratings changes nothing.
    def information(rating, dispersion=1.0):
        weight = dispersion * played * expected(rating) * expected(rating).T
        return (np.diag(weight.sum(1)) - weight)[1:, 1:]

    rating = np.zeros(len(wins))
    for _ in range(1000):  # Newton's method, with steps halved when they overshoot; a few iterations suffice
        gradient = (points - played * expected(rating)).sum(1)
        step = np.append(0.0, np.linalg.solve(information(rating), gradient[1:]))
        if np.abs(step).max() < 1e-9:
            break
        while log_likelihood(rating + step) < log_likelihood(rating) and np.abs(step).max() > 1e-9:
            step = step / 2
        rating = rating + step

    # The variance of a result is p (1 - p) minus a quarter of the probability of a draw, which is at most 2 p and
    # 2 (1 - p). The sandwich `inverse @ ... @ inverse` is the covariance of the estimate under that variance.
    p = expected(rating)
    draw_rate = np.minimum(draws, 2 * np.minimum(p, 1 - p) * games) / (games + 2)
    inverse = np.linalg.inv(information(rating))
    covariance = inverse @ information(rating, 1 - draw_rate / (4 * p * (1 - p))) @ inverse
    deviation = np.sqrt(np.append(0.0, np.diag(covariance)))
    margin = statistics.NormalDist().inv_cdf((1 + confidence) / 2) * deviation
    return Ratings(*(_SCALE * x for x in (rating, rating - margin, rating + margin)))


def connected(wins: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Returns which players are connected to the first by games, directly or through others, `[n]`."""
    met, size = np.arange(len(wins)) == 0, 0
    while met.sum() != size:
        size = met.sum()
        met = met | (wins + wins.T + draws)[met].any(0)
    return met


def _check_results(wins: np.ndarray, draws: np.ndarray) -> None:
    """Raises `ValueError` for results that no tournament can have, or that leave a player without a rating."""
    if wins.ndim != 2 or wins.shape != draws.shape or wins.shape[0] != wins.shape[1] or len(wins) < 2:
        raise ValueError(
            f"fit_elo: found wins of shape {wins.shape} and draws of shape {draws.shape}, expected [n, n] for both, "
            "with n at least 2; give a row and a column for each player."
        )
    if (wins < 0).any() or (draws < 0).any() or (draws != draws.T).any() or np.diag(wins + draws).any():
        raise ValueError(
            "fit_elo: found wins and draws that no tournament can have, expected numbers of 0 or more, draws[i, j] "
            "equal to draws[j, i], and zeros on both diagonals; check how the games were counted."
        )
    if not (met := connected(wins, draws)).all():
        raise ValueError(
            f"fit_elo: found that player {int(np.argmin(met))} is connected to the first by no games, not even "
            "through others, expected a chain of games, without which ratings cannot be compared; let them play, or "
            "leave that player out."
        )
