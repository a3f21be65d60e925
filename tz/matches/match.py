"""Plays matches: two players and many games, from varied openings, each played from both sides."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from tz._arguments import check_ints, check_one_key, check_position
from tz.games.env import Env, StepMetadata
from tz.games.move_lists import follow_moves
from tz.games.openings import check_openings
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
    """Plays `first` against `second`, from each opening twice, with the sides swapped.

    Each player has its own search tree. The match is compiled once for all players with the same shapes and static
    settings, and can be called under `jax.jit`.

    If a player is a [`tz.matches.GtpEngine`][] or a [`tz.matches.HostPlayer`][], the match is played on the host, move
    by move, with the same openings. Agents still search all games together. A function, or each process of an engine,
    is asked for one game at a time. Such a call cannot be traced, and `mesh` is not used.

    In a game with chance, the two games of an opening get the same dice: nature's n-th draw uses the same random number
    in both. In races of backgammon this lowers the variance of the score to about a quarter. In whole games of weak
    players it saves nothing that can be measured, since the same throw soon meets different positions
    (`experiments/results/equal_dice.md`).

    **Arguments:**

    - `env`: the game, of two players.
    - `first`, `second`: each a [`tz.Player`][], an engine or a Python function.
    - `num_games`: the number of games, even, as each opening is played twice.
    - `key`: decides the openings, the searches and nature's outcomes. The games do not depend on the mesh.
    - `opening_moves`: the number of random legal moves that make an opening; moves that would end the game are
        skipped. With 0, players whose searches and moves are not random play the same two games again and again.
    - `openings`: states and metadata to begin from instead, `[num_games / 2, ...]`, such as
        `jax.vmap(lambda moves: tz.play_moves(env, moves))(lists)`. Engines do not accept them.
    - `max_moves`: the number of moves after the opening at which a game is cut off.
    - `mesh`: the devices over which the games are split, such as [`tz.data_mesh`][]`()`. By default, all games are
        played on one device.

    **Returns:** a [`tz.matches.MatchResult`][], from the perspective of `first`.

    **Raises:** `ValueError` if the game does not have exactly two players, `num_games` is odd or not positive,
    `openings` has another number of positions or positions of another game, `opening_moves` or `max_moves` is too
    small, the games cannot be split evenly over the devices, a player is not made for this game, or an engine is not
    installed; the message then names its Debian package. A warning reports games that an engine or a function spoilt.

    **Example:**

    ```python
    match = tz.play_match(env, agent, tz.random_player(), num_games=100, key=jax.random.key(0))
    print(match.score, match.interval())
    ```
    """
    check_one_key("play_match", key)
    check_even("play_match", num_games)
    check_moves("play_match", opening_moves, max_moves)
    if env.num_players != 2:
        raise ValueError(
            f"play_match: found {env.name}, a game of {env.num_players} player, expected one of two players; for one "
            "player, compare returns with tz.matches.play_episodes."
        )
    for name, player in {"first": first, "second": second}.items():
        check_any_player("play_match", name, player)
    if openings is not None:
        _check_openings(env, openings, num_games)
        openings = jax.tree.map(jnp.asarray, openings)
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
    """Plays a match between two agents, compiled once for each set of shapes, static settings and `sizes`."""
    num_games, opening_moves, max_moves = sizes
    options: dict[str, Any] = {"opening_moves": opening_moves, "max_moves": max_moves}
    if mesh is None:
        return play_openings(env, first, second, num_games=num_games, key=key, openings=openings, **options)
    per_device = num_games // mesh.shape[DATA]

    def play(shared, split):
        (env, first, second, key), (numbers, openings) = shared, split
        # The numbers of the openings decide the randomness, so the games are the same on any number of devices.
        part: dict[str, Any] = {"num_games": per_device, "openings": openings, "first_opening": numbers[0]}
        return play_openings(env, first, second, key=key, **part, **options)

    return over_games(mesh, play, (env, first, second, key), (jnp.arange(num_games // 2, dtype=jnp.int32), openings))


def check_even(where: str, num_games: int, name: str = "num_games") -> None:
    """Raises `ValueError` unless the number of games is even and at least 2, as each opening is played twice."""
    check_ints(where, **{name: num_games})
    if num_games < 2 or num_games % 2:
        raise ValueError(
            f"{where}: found {name}={num_games}, expected an even number of at least 2, so that each opening is "
            "played from both sides; add or leave out a game."
        )


def check_moves(where: str, opening_moves: int, max_moves: int) -> None:
    """Raises `ValueError` unless games begin with 0 or more random moves, and have room for one move after them."""
    check_ints(where, opening_moves=opening_moves, max_moves=max_moves)
    if opening_moves < 0 or max_moves < 1:
        raise ValueError(
            f"{where}: found opening_moves={opening_moves} and max_moves={max_moves}, expected at least 0 and at least "
            "1; raise the number that is too small."
        )


def check_split(where: str, num_games: int, mesh: Mesh, name: str = "num_games") -> None:
    """Checks that a match can be split evenly over devices, for example before a long training that ends with one.

    Both games of an opening are played on the same device.

    **Arguments:**

    - `where`: the name of the caller, with which the message begins.
    - `num_games`: the number of games.
    - `mesh`: the devices, such as [`tz.data_mesh`][]`()`.
    - `name`: the name of the number in the message.

    **Raises:** `ValueError` unless `num_games` is a positive multiple of twice the number of devices.
    """
    check_even(where, num_games, name)
    size = mesh.shape[DATA]
    if num_games % (2 * size):
        nearest = 2 * size * max(1, round(num_games / (2 * size)))
        raise ValueError(
            f"{where}: found {name}={num_games}, which cannot be split evenly over {size} devices, expected a multiple "
            f"of {2 * size}, as both games of an opening are played on one device; write {name}={nearest}, or pass a "
            "mesh of fewer devices: mesh=tz.data_mesh(jax.devices()[:n])."
        )


def _check_openings(env: Env, openings: tuple[PyTree, StepMetadata], num_games: int) -> None:
    """Raises `ValueError` unless there is one position of the game for every two games, with a player to move."""
    found = check_position("play_match", openings)[1].terminated.shape
    if found != (num_games // 2,):
        raise ValueError(
            f"play_match: found openings of shape {found} for {num_games} games, expected ({num_games // 2},); give "
            "one for every two games."
        )
    check_openings("play_match", env, openings)


def replay_game(env: Env, match: MatchResult, game: int) -> PyTree:
    """Returns the positions of one game of a match, for example to draw them with [`tz.plot.render_game`][].

    **Arguments:**

    - `env`: the game.
    - `match`: the result of [`tz.play_match`][].
    - `game`: the index of the game, from 0 to `num_games - 1`.

    **Returns:** the environment's states, `[moves + 1, ...]`, from the end of the opening to the last position.
    """
    return _replay(env, match, game)[0]


_follow = eqx.filter_jit(follow_moves)


def _replay(env: Env, match: MatchResult, game: int) -> tuple[PyTree, StepMetadata]:
    """Returns states and metadata of one game, `[moves + 1, ...]`."""
    start = jax.tree.map(lambda x: x[game], match.opening)
    num_moves = int(jnp.sum(match.actions[game] >= 0))
    chance_key = None if match.chance_keys is None else match.chance_keys[game]
    # All `max_moves` actions are followed, and cut afterwards, so that games of any length share one program.
    positions = _follow(env, start, match.actions[game], chance_key=chance_key)
    return jax.tree.map(lambda x: x[: num_moves + 1], positions)


@eqx.filter_jit
def _think(env: Env, player: Player, env_state: PyTree, metadata: StepMetadata, keys: Array) -> Array:
    """Searches each position with a new tree; returns values from the perspective of the player to move."""

    def value(env_state, metadata, key):
        model = model_of(player.evaluator, env)
        start = init_search(player.mcts, env_state, metadata, model=model)
        return root_value(player.mcts, search(player.mcts, model, player.evaluator, start, key=key))

    return jax.vmap(value)(env_state, metadata, keys)


def replay_values(env: Env, match: MatchResult, game: int, player: Player, *, key: PRNGKeyArray) -> Float[Array, " T"]:
    """Evaluates every position of a game by a search, for example to see where a player noticed that it was losing.

    **Arguments:**

    - `env`, `match`, `game`: as in [`tz.replay_game`][].
    - `player`: the [`tz.Player`][] that searches. It need not have played in the match.
    - `key`: decides its searches. Each position is searched with a new tree.

    **Returns:** `[moves + 1]`, one value for each position that [`tz.replay_game`][] returns, from the perspective of
    the *first* player of the match. If the game was finished, the last one is its return.

    **Raises:** `ValueError` if `player` is not a [`tz.Player`][].
    """
    check_is_player("replay_values", "player", player)
    check_one_key("replay_values", key)
    env_state, metadata = _replay(env, match, game)
    values = _think(env, player, env_state, metadata, jax.random.split(key, len(metadata.terminated)))
    values = jnp.where(metadata.cur_player_id == match.player_id[game], values, -values)
    return values.at[-1].set(jnp.where(match.finished[game], match.returns[game], values[-1]))
