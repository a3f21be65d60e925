"""Matches: two players, many games at once, from varied openings, each opening played from both sides."""

import functools
import statistics
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from tz._arguments import check_ints, check_one_key
from tz.games.env import Env, StepMetadata
from tz.games.move_lists import follow_moves
from tz.games.openings import random_opening
from tz.matches.players import Player, check_is_player, check_player
from tz.mcts.results import choose_action, root_value
from tz.mcts.simulation import SearchState, advance, init_search, search


def check_openings(openings: tuple[PyTree, StepMetadata], num_games: int) -> None:
    """Raises `ValueError` unless there is an opening for every two games."""
    found = openings[1].terminated.shape
    if found != (num_games // 2,):
        raise ValueError(
            f"A match of {num_games} games: found openings of shape {found}, expected ({num_games // 2},), each for "
            "two games; give one for every two games."
        )


class MatchResult(eqx.Module):
    """The games of a match, `G` of them; game `2 i` and game `2 i + 1` share an opening with the sides swapped.

    **Fields:**

    - `returns`: `[G]`, the sum of the first player's rewards.
    - `finished`: `[G]`, False where a game was cut off at `max_steps`, or over before a move was made in it; it counts
        in none of wins, draws and losses.
    - `player_id`: `[G]`, the id that the first player had.
    - `opening`: the environment's states and metadata, a pair, after the opening, `[G, ...]`.
    - `actions`: `[G, max_steps]`, the moves from there, -1 after the end.
    """

    returns: Float[Array, " G"]
    finished: Bool[Array, " G"]
    player_id: Int[Array, " G"]
    opening: PyTree
    actions: Int[Array, "G T"]

    def _count(self, games: Bool[Array, " G"]) -> Int[Array, ""]:
        return jnp.sum(games & self.finished, dtype=jnp.int32)

    @property
    def wins(self) -> Int[Array, ""]:
        """Finished games that the first player won."""
        return self._count(self.returns > 0)

    @property
    def draws(self) -> Int[Array, ""]:
        """Finished games without a winner."""
        return self._count(self.returns == 0)

    @property
    def losses(self) -> Int[Array, ""]:
        """Finished games that the second player won."""
        return self._count(self.returns < 0)

    @property
    def score(self) -> Float[Array, ""]:
        """Wins and half the draws, of all finished games; 0.5, the middle of its interval, where there are none."""
        points, num_finished = self._points().sum(), self.finished.sum(dtype=jnp.float32)
        return jnp.where(num_finished == 0, 0.5, points / jnp.maximum(num_finished, 1))

    def _points(self) -> Float[Array, " G"]:
        """1 for a win, half for a draw, 0 for a loss and for a game that was not finished."""
        return jnp.where(self.finished, 0.5 + 0.5 * jnp.sign(self.returns), 0.0)

    def interval(self, confidence: float = 0.95) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """A confidence interval of the score, the openings being a sample of all that there are.

        The two games of an opening depend on one another, so an opening counts as one observation. To be right also
        where all games are won, two openings are added, one won twice and one lost twice: what Agresti and Coull,
        *Approximate is better than "exact"* (1998), do for proportions.
        """
        points = jnp.append(self._points().reshape(-1, 2).sum(1), jnp.array([0, 2], jnp.float32))
        games = jnp.append(self.finished.reshape(-1, 2).sum(1, dtype=jnp.float32), jnp.array([2, 2], jnp.float32))
        score = points.sum() / games.sum()
        deviation = jnp.sqrt(jnp.sum((points - score * games) ** 2) * len(points) / (len(points) - 1)) / games.sum()
        margin = statistics.NormalDist().inv_cdf((1 + confidence) / 2) * deviation
        return jnp.maximum(score - margin, 0.0), jnp.minimum(score + margin, 1.0)


class _Games(eqx.Module):
    """One side's half of a match in progress, `[G / 2, ...]`; `trees` are the two players'."""

    env_state: PyTree
    metadata: StepMetadata
    trees: tuple[SearchState, SearchState]
    returns: Array
    keys: Array


def _search_if_to_move(
    env: Env, player: Player, tree: SearchState, to_move: Array, keys: Array, step: Array
) -> tuple[Array, SearchState]:
    """The moves and trees of a player who searches where it is to move; no search at all if that is nowhere."""

    def run(tree):
        def one(tree, to_move, key):
            search_key, action_key = jax.random.split(key)
            searched = search(player.mcts, env, player.evaluator, tree, key=search_key)
            action = choose_action(player.mcts, searched, key=action_key, num_moves=step)
            return action, jax.tree.map(lambda new, old: jnp.where(to_move, new, old), searched, tree)

        return jax.vmap(one)(tree, to_move, keys)

    return lax.cond(jnp.any(to_move), run, lambda tree: (jnp.zeros(to_move.shape, jnp.int32), tree), tree)


def _play_ply(env: Env, players: tuple[Player, Player], games: _Games, player_id, step) -> tuple[_Games, Array]:
    """One move in every unfinished game of one half; `step` is the move's number, from after the opening."""
    live = ~games.metadata.terminated
    first_to_move = games.metadata.cur_player_id == player_id
    keys = jax.vmap(jax.random.fold_in, (0, None))(games.keys, step)
    action_0, tree_0 = _search_if_to_move(env, players[0], games.trees[0], live & first_to_move, keys, step)
    action_1, tree_1 = _search_if_to_move(env, players[1], games.trees[1], live & ~first_to_move, keys, step)
    action = jnp.where(first_to_move, action_0, action_1)
    env_state, metadata = jax.vmap(env.step)(games.env_state, action)

    def follow(player: Player, tree: SearchState) -> SearchState:
        return jax.vmap(lambda *after: advance(player.mcts, *after))(tree, action, env_state, metadata)

    trees = follow(players[0], tree_0), follow(players[1], tree_1)
    reward = jax.vmap(lambda rewards, player: rewards[player])(metadata.rewards, player_id)
    returns = games.returns + jnp.where(live, reward.astype(jnp.float32), 0)
    return _Games(env_state, metadata, trees, returns, games.keys), jnp.where(live, action, -1)


def _both_sides(
    players: tuple[Player, Player], openings: tuple[PyTree, StepMetadata], key: PRNGKeyArray, numbers: Int[Array, " G"]
) -> tuple[_Games, Int[Array, "2 G"]]:
    """The two halves of a match before their first ply, and the first player's ids: it moves first in one of them."""
    env_state, metadata = jax.tree.map(lambda x: jnp.stack([x, x]), openings)
    new_trees = [jax.vmap(jax.vmap(functools.partial(init_search, player.mcts))) for player in players]
    trees = new_trees[0](env_state, metadata), new_trees[1](env_state, metadata)
    keys = jnp.stack([jax.vmap(jax.random.fold_in, (None, 0))(key, 2 * numbers + side) for side in (0, 1)])
    mover = metadata.cur_player_id[0]
    games = _Games(env_state, metadata, trees, jnp.zeros((2, *numbers.shape), jnp.float32), keys)
    return games, jnp.stack([mover, 1 - mover])


def play_match(
    env: Env,
    first: Player,
    second: Player,
    *,
    num_games: int,
    key: PRNGKeyArray,
    opening_plies: int = 4,
    openings: tuple[PyTree, StepMetadata] | None = None,
    max_steps: int = 1024,
    first_opening: int | Int[Array, ""] = 0,
) -> MatchResult:
    """Plays `first` against `second`, each opening twice with the sides swapped, each player with a tree of its own.

    A whole-batch function: all games advance together, and a player's search runs only when it is to move in some game
    of the half in question. Compile it with `eqx.filter_jit`.

    **Arguments:** `num_games`, even; `opening_plies`, random legal moves at the start, so that games differ (without
    them two players without randomness play the same two games over and over); `openings`, positions to begin from in
    their place, `[num_games / 2, ...]`, such as `jax.vmap(lambda moves: tz.play_moves(env, moves))(lists)`; for others,
    give the players a temperature in their first moves; `max_steps`, moves after the opening;
    `first_opening`, the number of the first opening, on which with `key` its randomness depends: a match can be split
    into several of consecutive openings.

    **Returns:** a [`tz.matches.MatchResult`][], from the point of view of `first`.

    **Raises:** `ValueError` if `num_games` is odd or not positive, the game has not exactly two players, or one of the
    two who play cannot be asked about this game.
    """
    check_ints("play_match", num_games=num_games, opening_plies=opening_plies, max_steps=max_steps)
    check_one_key("play_match", key)
    if num_games < 2 or num_games % 2:
        raise ValueError(
            f"play_match: found num_games={num_games}, expected an even number of at least 2, so that each opening is "
            "played from both sides; change it."
        )
    if env.num_players != 2:
        raise ValueError(
            f"play_match: found {env.name}, a game of {env.num_players} player, expected one of two players; for one, "
            "compare the returns of self-play."
        )
    for name, player in {"first": first, "second": second}.items():
        check_is_player("play_match", name, player)
        check_player(env, player)
    opening_key, play_key = jax.random.split(key)
    numbers = first_opening + jnp.arange(num_games // 2, dtype=jnp.int32)
    if openings is None:
        opening_keys = jax.vmap(jax.random.fold_in, (None, 0))(opening_key, numbers)
        openings = jax.vmap(lambda key: random_opening(env, opening_plies, key=key))(opening_keys)
    else:
        check_openings(openings, num_games)
    start, player_ids = _both_sides((first, second), openings, play_key, numbers)

    def unfinished(carry: Any):
        games, _, step = carry
        return jnp.any(~games.metadata.terminated) & (step < max_steps)

    def play(carry: Any):
        games, actions, step = carry

        def ply(half):
            return _play_ply(env, (first, second), half[0], half[1], step)

        games, action = lax.map(ply, (games, player_ids))
        return games, actions.at[:, :, step].set(action), step + 1

    actions = jnp.full((2, num_games // 2, max_steps), -1, jnp.int32)
    games, actions, _ = lax.while_loop(unfinished, play, (start, actions, jnp.int32(0)))

    def interleaved(x):
        return jnp.swapaxes(x, 0, 1).reshape(num_games, *x.shape[2:])

    return MatchResult(
        returns=interleaved(games.returns),
        finished=interleaved(games.metadata.terminated & ~start.metadata.terminated),
        player_id=interleaved(player_ids),
        opening=jax.tree.map(interleaved, (start.env_state, start.metadata)),
        actions=interleaved(actions),
    )


def replay_game(env: Env, match: MatchResult, game: int) -> PyTree:
    """The environment's states of one game of a match, from after the opening to the end, `[moves + 1, ...]`."""
    return _replay(env, match, game)[0]


_follow = eqx.filter_jit(follow_moves)


def _replay(env: Env, match: MatchResult, game: int) -> tuple[PyTree, StepMetadata]:
    start = jax.tree.map(lambda x: x[game], match.opening)
    num_moves = int(jnp.sum(match.actions[game] >= 0))
    return jax.tree.map(lambda x: x[: num_moves + 1], _follow(env, start, match.actions[game]))


@eqx.filter_jit
def _think(env: Env, player: Player, env_state: PyTree, metadata: StepMetadata, keys: Array) -> Array:
    def value(env_state, metadata, key):
        start = init_search(player.mcts, env_state, metadata)
        return root_value(player.mcts, search(player.mcts, env, player.evaluator, start, key=key))

    return jax.vmap(value)(env_state, metadata, keys)


def replay_values(env: Env, match: MatchResult, game: int, player: Player, *, key: PRNGKeyArray) -> Float[Array, " T"]:
    """What a player thinks of each position of a game: the value of its search, for the *first* player of the match.

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
