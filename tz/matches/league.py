"""Plays tournaments, every player against every other."""

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
    """Holds the results of a tournament of `n` players.

    **Fields:**

    - `wins`: `[n, n]`, the number of games that the row's player won against the column's player.
    - `draws`: `[n, n]`, the number of drawn games, symmetric. Games that were not finished are in neither.
    """

    wins: Int[np.ndarray, "n n"]
    draws: Int[np.ndarray, "n n"]

    def ratings(self, confidence: float = 0.95) -> Ratings:
        """Fits Elo ratings to the results, with the first player at 0; see [`tz.matches.fit_elo`][].

        **Arguments:**

        - `confidence`: the probability that an interval contains the true difference to the first player.
        """
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
    """Plays a match between every two players, all from the same openings.

    Pairs of players with the same shapes and static settings, such as two networks of one architecture with the same
    search, share one compiled match.

    **Arguments:**

    - `env`: the game, of two players.
    - `players`: at least two [`tz.Player`][]s, engines or Python functions.
    - `num_games`: the number of games of each pair, even.
    - `key`: decides the openings and the searches. All matches use the same key.
    - `opening_moves`, `openings`, `max_moves`, `mesh`: as in [`tz.play_match`][].

    **Returns:** a [`tz.matches.RoundRobin`][]; its `ratings()` are Elo ratings.

    **Raises:** `ValueError` if there are fewer than two players, and where [`tz.play_match`][] does.
    """
    if len(players) < 2:
        raise ValueError(f"round_robin: found len(players)={len(players)}, expected at least 2; add players.")
    wins, draws = np.zeros((2, len(players), len(players)), int)
    options = {"num_games": num_games, "opening_moves": opening_moves, "openings": openings, "max_moves": max_moves}
    for i, first in enumerate(players):
        for j, second in list(enumerate(players))[i + 1 :]:
            match = play_match(env, first, second, key=key, mesh=mesh, **options)
            wins[i, j], draws[i, j], wins[j, i] = (int(x) for x in (match.wins, match.draws, match.losses))
            draws[j, i] = draws[i, j]
    return RoundRobin(wins, draws)
