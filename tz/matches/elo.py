"""Elo ratings of a league of players, by maximum likelihood, with intervals."""

import statistics

import equinox as eqx
import numpy as np
from jaxtyping import Float

_SCALE = 400 / np.log(10)


class Ratings(eqx.Module):
    """Ratings of `n` players, that of the first 0.

    **Fields:** `elo`; `low` and `high`, the ends of the confidence interval of its difference to the first.
    """

    elo: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]

    def __str__(self) -> str:
        rows = zip(self.elo, self.low, self.high, strict=True)
        return "\n".join(f"{i:>3} {x:+6.0f} ({low:+.0f} to {high:+.0f})" for i, (x, low, high) in enumerate(rows))


def fit_elo(wins: np.ndarray, draws: np.ndarray, *, confidence: float = 0.95) -> Ratings:
    """Ratings under which `i` scores `1 / (1 + 10 ** ((elo_j - elo_i) / 400))` a game against `j`, at best likelihood.

    That is the model of Bradley and Terry (1952) with a draw as half a win, and the weak prior of one more game that
    each player drew, spread over the opponents it had; without it a player that won every game would have no rating.
    A pair that draws often scatters less than its wins and losses would, which narrows the intervals; by the fraction
    of its draws among its games and two more without one, so that few games never look certain. Games count as
    independent, those of one opening included.

    **Arguments:** `wins`, `[n, n]`, games that row won against column; `draws`, `[n, n]`, symmetric; `confidence`, of
    the intervals.

    **Raises:** `ValueError` if the shapes are wrong, a number is negative, `draws` is not symmetric, or some players
    are not connected to the first by any games.
    """
    wins, draws = np.asarray(wins, float), np.asarray(draws, float)
    _check_results(wins, draws)
    games = wins + wins.T + draws
    total = games.sum(1)
    virtual = games * (1 / total[:, None] + 1 / total[None]) / 2
    points, played = wins + (draws + virtual) / 2, games + virtual

    def expected(rating):
        return 1 / (1 + np.exp(rating[None] - rating[:, None]))

    def log_likelihood(rating):
        return -np.sum(points * np.logaddexp(0, rating[None] - rating[:, None]))

    def information(rating, dispersion=1.0):
        weight = dispersion * played * expected(rating) * expected(rating).T
        return (np.diag(weight.sum(1)) - weight)[1:, 1:]

    rating = np.zeros(len(wins))
    for _ in range(1000):  # Newton's method, halving steps that overshoot; a few iterations do
        gradient = (points - played * expected(rating)).sum(1)
        step = np.append(0.0, np.linalg.solve(information(rating), gradient[1:]))
        if np.abs(step).max() < 1e-9:
            break
        while log_likelihood(rating + step) < log_likelihood(rating) and np.abs(step).max() > 1e-9:
            step = step / 2
        rating = rating + step

    # The variance of a result is p (1 - p) less a quarter of the chance of a draw, which is at most 2 p or 2 (1 - p).
    p = expected(rating)
    draw_rate = np.minimum(draws, 2 * np.minimum(p, 1 - p) * games) / (games + 2)
    inverse = np.linalg.inv(information(rating))
    covariance = inverse @ information(rating, 1 - draw_rate / (4 * p * (1 - p))) @ inverse
    deviation = np.sqrt(np.append(0.0, np.diag(covariance)))
    margin = statistics.NormalDist().inv_cdf((1 + confidence) / 2) * deviation
    return Ratings(*(_SCALE * x for x in (rating, rating - margin, rating + margin)))


def connected(wins: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Who is connected to the first player by games, if only through others, `[n]`."""
    met, size = np.arange(len(wins)) == 0, 0
    while met.sum() != size:
        size = met.sum()
        met = met | (wins + wins.T + draws)[met].any(0)
    return met


def _check_results(wins: np.ndarray, draws: np.ndarray) -> None:
    if wins.ndim != 2 or wins.shape != draws.shape or wins.shape[0] != wins.shape[1] or len(wins) < 2:
        raise ValueError(
            f"fit_elo: wins and draws must be [n, n] with n at least 2, found {wins.shape} and {draws.shape}."
        )
    if (wins < 0).any() or (draws < 0).any() or (draws != draws.T).any() or np.diag(wins + draws).any():
        raise ValueError(
            "fit_elo: numbers of games must be 0 or more, draws the same both ways, and nobody plays against itself."
        )
    if not (met := connected(wins, draws)).all():
        raise ValueError(
            f"fit_elo: player {int(np.argmin(met))} is connected to the first by no games, not even through "
            "others, so their ratings cannot be compared. Let them play, or leave that player out."
        )
