"""Matches: two players, many games, from varied openings, each opening played from both sides."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from tz._arguments import check_ints, check_one_key
from tz.games.env import Env, StepMetadata
from tz.games.move_lists import follow_moves
from tz.matches._host_match import play_on_host
from tz.matches._playing import MatchResult, play_openings
from tz.matches.engines import AnyPlayer, check_any_player
from tz.matches.players import Player, check_is_player
from tz.mcts.models import model_of
from tz.mcts.results import root_value
from tz.mcts.simulation import init_search, search
from tz.sharding import DATA, check_mesh, over_games, place, usable_mesh


def play_match(
    env: Env,
    first: AnyPlayer,
    second: AnyPlayer,
    *,
    num_games: int,
    key: PRNGKeyArray,
    opening_moves: int = 4,
    openings: tuple[PyTree, StepMetadata] | None = None,
    max_moves: int = 1024,
    mesh: Mesh | None = None,
) -> MatchResult:
    """Plays `first` against `second`, each opening twice with the sides swapped, each player with a tree of its own.

    In a game with chance, the two games of an opening get the same dice: nature's n-th draw is made with the same
    random number in both. In races of backgammon, that brings the variance of the score down to a quarter; in whole
    games of weak players, where the same throw soon meets other positions, it saves nothing that can be measured
    (`experiments/results/equal_dice.md`).

    The match is compiled once for players of one make, and may be called under `jax.jit`.

    With a [`tz.matches.GtpEngine`][] or a [`tz.matches.HostPlayer`][] the match is played on the host, move by move,
    from the same openings: agents search all games together, and the others are asked for one game at a time. It cannot
    be traced, and `mesh` is not used.

    **Arguments:**

    - `first`, `second`: [`tz.Player`][]s, engines or functions of Python.
    - `num_games`: even, two for each opening.
    - `key`: of the openings and of all searches. The games do not depend on the mesh.
    - `opening_moves`: random legal moves at the start, so that games differ. Without them, two players without
        randomness play the same two games over and over, unless they have a temperature in their first moves.
    - `openings`: positions to begin from in place of random ones, `[num_games / 2, ...]`, such as
        `jax.vmap(lambda moves: tz.play_moves(env, moves))(lists)`. An engine cannot begin there.
    - `max_moves`: moves after the opening, at which a game is cut off.
    - `mesh`: devices to split the games over, such as [`tz.data_mesh`][]`()`. By default all are played on one.

    **Returns:** a [`tz.matches.MatchResult`][], from the perspective of `first`.

    **Raises:** `ValueError` if the game has not exactly two players, `num_games` is odd or not positive, the openings
    cannot be split evenly over the devices, or one of the players cannot be asked about this game; for an engine that
    is not installed, with the package that has it. A warning says that an engine spoilt games.
    """
    check_ints("play_match", num_games=num_games, opening_moves=opening_moves, max_moves=max_moves)
    check_one_key("play_match", key)
    check_even("play_match", num_games)
    if env.num_players != 2:
        raise ValueError(
            f"play_match: found {env.name}, a game of {env.num_players} player, expected one of two players; for one, "
            "compare returns: tz.matches.play_episodes."
        )
    for name, player in {"first": first, "second": second}.items():
        check_any_player("play_match", name, player)
    if openings is not None:
        _check_openings(openings, num_games)
    if not isinstance(first, Player) or not isinstance(second, Player):
        sizes: dict[str, Any] = {"num_games": num_games, "opening_moves": opening_moves, "max_moves": max_moves}
        return play_on_host(env, (first, second), key=key, openings=openings, **sizes)
    agents = first, second
    if mesh is not None:
        mesh = usable_mesh(mesh)
        check_mesh(mesh)
        check_split("play_match", num_games, mesh)
        openings = place(openings, mesh, split=True)
        env, agents, key = place((env, agents, key), mesh, split=False)
    return _play(env, agents[0], agents[1], key, openings, (num_games, opening_moves, max_moves), mesh)


@eqx.filter_jit
def _play(
    env: Env, first: Player, second: Player, key: PRNGKeyArray, openings, sizes: tuple[int, ...], mesh: Mesh | None
) -> MatchResult:
    num_games, opening_moves, max_moves = sizes
    options: dict[str, Any] = {"opening_moves": opening_moves, "max_moves": max_moves}
    if mesh is None:
        return play_openings(env, first, second, num_games=num_games, key=key, openings=openings, **options)
    per_device = num_games // mesh.shape[DATA]

    def play(shared, split):
        (env, first, second, key), (numbers, openings) = shared, split
        part: dict[str, Any] = {"num_games": per_device, "openings": openings, "first_opening": numbers[0]}
        return play_openings(env, first, second, key=key, **part, **options)

    return over_games(mesh, play, (env, first, second, key), (jnp.arange(num_games // 2, dtype=jnp.int32), openings))


def check_even(where: str, num_games: int, name: str = "num_games") -> None:
    """Raises `ValueError` unless there is at least one opening, two games each."""
    check_ints(where, **{name: num_games})
    if num_games < 2 or num_games % 2:
        raise ValueError(
            f"{where}: found {name}={num_games}, expected an even number of at least 2, so that each opening is "
            "played from both sides; change it."
        )


def check_split(where: str, num_games: int, mesh: Mesh, name: str = "num_games") -> None:
    """Raises `ValueError` unless whole openings, two games each, can be split evenly over the devices."""
    check_even(where, num_games, name)
    size = mesh.shape[DATA]
    if num_games % (2 * size):
        nearest = 2 * size * max(1, round(num_games / (2 * size)))
        raise ValueError(
            f"{where}: {name}={num_games} cannot be split evenly over {size} devices, with both sides of each opening "
            f"on one; the nearest that can is {nearest}."
        )


def _check_openings(openings: tuple[PyTree, StepMetadata], num_games: int) -> None:
    """Raises `ValueError` unless there is an opening for every two games."""
    found = openings[1].terminated.shape
    if found != (num_games // 2,):
        raise ValueError(
            f"play_match: found openings of shape {found} for {num_games} games, expected ({num_games // 2},); give "
            "one for every two games."
        )


def replay_game(env: Env, match: MatchResult, game: int) -> PyTree:
    """The environment's states of one game of a match, from after the opening to the end, `[moves + 1, ...]`."""
    return _replay(env, match, game)[0]


_follow = eqx.filter_jit(follow_moves)


def _replay(env: Env, match: MatchResult, game: int) -> tuple[PyTree, StepMetadata]:
    start = jax.tree.map(lambda x: x[game], match.opening)
    num_moves = int(jnp.sum(match.actions[game] >= 0))
    chance_key = None if match.chance_keys is None else match.chance_keys[game]
    positions = _follow(env, start, match.actions[game], chance_key=chance_key)
    return jax.tree.map(lambda x: x[: num_moves + 1], positions)


@eqx.filter_jit
def _think(env: Env, player: Player, env_state: PyTree, metadata: StepMetadata, keys: Array) -> Array:
    def value(env_state, metadata, key):
        model = model_of(player.evaluator, env)
        start = init_search(player.mcts, env_state, metadata, model=model)
        return root_value(player.mcts, search(player.mcts, model, player.evaluator, start, key=key))

    return jax.vmap(value)(env_state, metadata, keys)


def replay_values(env: Env, match: MatchResult, game: int, player: Player, *, key: PRNGKeyArray) -> Float[Array, " T"]:
    """Values that a player's search gives the positions of a game, from the perspective of the match's *first* player.

    **Arguments:** those of [`tz.replay_game`][]; `player`, who need not have played; `key`, of its searches.

    **Returns:** one value for each position that `replay_game` returns; of the last, if the game was finished, the
    outcome.
    """
    check_is_player("replay_values", "player", player)
    check_one_key("replay_values", key)
    env_state, metadata = _replay(env, match, game)
    values = _think(env, player, env_state, metadata, jax.random.split(key, len(metadata.terminated)))
    values = jnp.where(metadata.cur_player_id == match.player_id[game], values, -values)
    return values.at[-1].set(jnp.where(match.finished[game], match.returns[game], values[-1]))
