"""Matches spread over devices, and tournaments of them."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, PRNGKeyArray, PyTree

from tz._arguments import check_ints, check_one_key
from tz.games.env import Env, StepMetadata
from tz.matches.elo import Ratings, fit_elo
from tz.matches.match import MatchResult, check_openings, play_match
from tz.matches.players import Player, check_is_player
from tz.sharding import DATA, check_mesh, over_games, place, usable_mesh


def check_even(num_games: int, name: str = "num_games") -> None:
    """Raises `ValueError` unless there is at least one opening, two games each."""
    check_ints("a match", **{name: num_games})
    if num_games < 2 or num_games % 2:
        raise ValueError(
            f"{name} must be even and at least 2, so that both players get each side equally often; found {num_games}."
        )


def check_split(num_games: int, mesh: Mesh, name: str = "num_games") -> None:
    """Raises `ValueError` unless whole openings, two games each, can be split evenly over the devices."""
    check_even(num_games, name)
    size = mesh.shape[DATA]
    if num_games % (2 * size):
        nearest = 2 * size * max(1, round(num_games / (2 * size)))
        raise ValueError(
            f"{name}={num_games} cannot be split evenly over {size} devices, with both sides of each opening on one; "
            f"the nearest that can is {nearest}."
        )


def match_on_mesh(
    env: Env,
    first: Player,
    second: Player,
    *,
    num_games: int,
    key: PRNGKeyArray,
    opening_plies: int = 4,
    openings: tuple[PyTree, StepMetadata] | None = None,
    max_steps: int = 1024,
    mesh: Mesh | None = None,
) -> MatchResult:
    """[`tz.play_match`][], compiled once and split over devices, by default over all.

    **Raises:** `ValueError` if the openings, two games each, cannot be split evenly over the devices, and what
    `play_match` raises.
    """
    mesh = usable_mesh(mesh)
    check_mesh(mesh)
    check_split(num_games, mesh)
    check_one_key("match_on_mesh", key)
    for name, player in {"first": first, "second": second}.items():
        check_is_player("match_on_mesh", name, player)
    if openings is not None:
        check_openings(openings, num_games)
        openings = place(openings, mesh, split=True)
    env, first, second, key = place((env, first, second, key), mesh, split=False)
    return _play(env, first, second, key, openings, (num_games, opening_plies, max_steps), mesh)


@eqx.filter_jit
def _play(env: Env, first: Player, second: Player, key: PRNGKeyArray, openings, sizes: tuple[int, ...], mesh: Mesh):
    num_games, opening_plies, max_steps = sizes
    per_device = num_games // mesh.shape[DATA]

    def play(shared, split):
        (env, first, second, key), (numbers, openings) = shared, split
        options = {"opening_plies": opening_plies, "openings": openings, "max_steps": max_steps}
        return play_match(env, first, second, num_games=per_device, key=key, first_opening=numbers[0], **options)

    return over_games(mesh, play, (env, first, second, key), (jnp.arange(num_games // 2, dtype=jnp.int32), openings))


class RoundRobin(eqx.Module):
    """What `n` players scored against each other.

    **Fields:** `wins`, `[n, n]`, games that row won against column; `draws`, `[n, n]`, symmetric.
    """

    wins: Int[np.ndarray, "n n"]
    draws: Int[np.ndarray, "n n"]

    def ratings(self, confidence: float = 0.95) -> Ratings:
        """Elo ratings, that of the first player 0; see [`tz.matches.fit_elo`][]."""
        return fit_elo(self.wins, self.draws, confidence=confidence)


def round_robin(
    env: Env,
    players: Sequence[Player],
    *,
    num_games: int,
    key: PRNGKeyArray,
    opening_plies: int = 4,
    openings: tuple[PyTree, StepMetadata] | None = None,
    max_steps: int = 1024,
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
    options = {"num_games": num_games, "opening_plies": opening_plies, "openings": openings, "max_steps": max_steps}
    for i, first in enumerate(players):
        for j, second in list(enumerate(players))[i + 1 :]:
            match = match_on_mesh(env, first, second, key=key, mesh=mesh, **options)
            wins[i, j], draws[i, j], wins[j, i] = (int(x) for x in (match.wins, match.draws, match.losses))
            draws[j, i] = draws[i, j]
    return RoundRobin(wins, draws)
