"""Tournaments: every player against every other."""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, PRNGKeyArray, PyTree

from tz.games.env import Env, StepMetadata
from tz.matches.elo import Ratings, fit_elo
from tz.matches.engines import AnyPlayer
from tz.matches.match import play_match


class RoundRobin(eqx.Module):
    """The results of `n` players against each other.

    **Fields:** `wins`, `[n, n]`, games that row won against column; `draws`, `[n, n]`, symmetric.
    """

    wins: Int[np.ndarray, "n n"]
    draws: Int[np.ndarray, "n n"]

    def ratings(self, confidence: float = 0.95) -> Ratings:
        """Returns Elo ratings, with the first player at 0; see [`tz.matches.fit_elo`][]."""
        return fit_elo(self.wins, self.draws, confidence=confidence)


def round_robin(
    env: Env,
    players: Sequence[AnyPlayer],
    *,
    num_games: int,
    key: PRNGKeyArray,
    opening_moves: int = 4,
    openings: tuple[PyTree, StepMetadata] | None = None,
    max_moves: int = 1024,
    mesh: Mesh | None = None,
) -> RoundRobin:
    """Lets every player play every other, `num_games` each, all pairs from the same openings.

    Players of one make, such as networks of one shape with the same search, share a compiled match.

    **Raises:** `ValueError` for fewer than two players, and as [`tz.play_match`][]; or if the games cannot be split
    evenly over the devices.
    """
    if len(players) < 2:
        raise ValueError(f"round_robin: a tournament needs at least 2 players, found {len(players)}.")
    wins, draws = np.zeros((2, len(players), len(players)), int)
    options = {"num_games": num_games, "opening_moves": opening_moves, "openings": openings, "max_moves": max_moves}
    for i, first in enumerate(players):
        for j, second in list(enumerate(players))[i + 1 :]:
            match = play_match(env, first, second, key=key, mesh=mesh, **options)
            wins[i, j], draws[i, j], wins[j, i] = (int(x) for x in (match.wins, match.draws, match.losses))
            draws[j, i] = draws[i, j]
    return RoundRobin(wins, draws)
