"""Plays the moves of a match: two agents, many games at once, each opening from both sides."""

import statistics
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from tz.games.chance import make_numbered_move, split_with_chance
from tz.games.env import Env, StepMetadata
from tz.games.openings import random_opening
from tz.matches.players import Player, check_player
from tz.mcts.models import model_of
from tz.mcts.results import choose_action
from tz.mcts.simulation import SearchState, advance, init_search, search

Number = float | Float[Array, ""]
LEVEL = 1e-5  # a return this close to 0 is a draw: in float32, a sum of fractions is seldom exactly 0


class MatchResult(eqx.Module):
    """Holds the `G` games of a match, from the perspective of the first player.

    Games `2 i` and `2 i + 1` have the same opening, with the sides swapped. `print(match)` shows wins, draws and
    losses, and the score with its 95 % interval.

    **Fields:**

    - `returns`: `[G]`, the sum of the first player's rewards in each game since the opening. If a player resigned, it
        is 1 if that was the opponent, and -1 if it was the first player, whatever the rewards before. A return between
        -1e-5 and 1e-5 counts as a draw, since rounding may keep a sum of fractions from being exactly 0.
    - `finished`: `[G]`, False if a game was cut off at `max_moves`, was over before its first move, or was spoilt. Such
        a game is neither a win, a draw nor a loss.
    - `player_id`: `[G]`, the id of the first player in each game.
    - `opening`: a pair, the environment's states and metadata after the opening, `[G, ...]`.
    - `actions`: `[G, max_moves]`, the moves after the opening, and -1 after the end.
    - `chance_keys`: `[G]`, the keys of nature's draws in a game with chance, the same for both games of an opening.
        None in other games.
    - `failures`: one text for each game that an engine or a function spoilt, with the number of the game and the
        reason. Empty in a match between agents.
    """

    returns: Float[Array, " G"]
    finished: Bool[Array, " G"]
    player_id: Int[Array, " G"]
    opening: PyTree
    actions: Int[Array, "G T"]
    chance_keys: Shaped[PRNGKeyArray, " G"] | None = None
    failures: tuple[str, ...] = eqx.field(static=True, default=())

    def _count(self, games: Bool[Array, " G"]) -> Int[Array, ""]:
        """Returns how many of the games are finished."""
        return jnp.sum(games & self.finished, dtype=jnp.int32)

    @property
    def wins(self) -> Int[Array, ""]:
        """Returns the number of finished games that the first player won."""
        return self._count(self._signs() > 0)

    @property
    def draws(self) -> Int[Array, ""]:
        """Returns the number of finished games without a winner."""
        return self._count(self._signs() == 0)

    @property
    def losses(self) -> Int[Array, ""]:
        """Returns the number of finished games that the second player won."""
        return self._count(self._signs() < 0)

    @property
    def score(self) -> Float[Array, ""]:
        """Returns the points (1 for a win, 0.5 for a draw) per finished game; 0.5 if no game is finished."""
        points, num_finished = self._points().sum(), self.finished.sum(dtype=jnp.float32)
        return jnp.where(num_finished == 0, 0.5, points / jnp.maximum(num_finished, 1))

    def _signs(self) -> Float[Array, " G"]:
        """Returns 1 for a win of the first player, -1 for a loss and 0 for a draw, also in games that were cut off."""
        return jnp.where(jnp.abs(self.returns) < LEVEL, 0.0, jnp.sign(self.returns))

    def _points(self) -> Float[Array, " G"]:
        """Returns 1 for a win, 0.5 for a draw, and 0 for a loss or a game that was not finished."""
        return jnp.where(self.finished, 0.5 + 0.5 * self._signs(), 0.0)

    def __str__(self) -> str:
        counts = (self.wins, self.draws, self.losses, jnp.sum(~self.finished))
        try:
            wins, draws, losses, unfinished = map(int, counts)
            score, low, high = map(float, (self.score, *self.interval()))
        except jax.errors.ConcretizationTypeError:  # under jit there are no numbers yet
            return repr(self)
        cut = f", {unfinished} not finished" if unfinished else ""
        return f"{wins} won, {draws} drawn, {losses} lost{cut}: {score:.2f} ({low:.2f} to {high:.2f})"

    def interval(self, confidence: float = 0.95) -> tuple[Number, Number]:
        """Returns a confidence interval of the score, which treats the openings as a random sample of all openings.

        The two games of an opening depend on each other, so an opening counts as one observation. Two openings are
        added, one won twice and one lost twice, so that the interval has a width even if all games are won. Agresti and
        Coull, *Approximate is better than "exact" for interval estimation of binomial proportions* (1998), do the same
        for proportions.

        **Arguments:**

        - `confidence`: the probability that such an interval contains the true score.

        **Returns:** the lower and the upper end, from 0 to 1: Python floats, or arrays under `jax.jit` and `jax.vmap`.
        """
        points = jnp.append(self._points().reshape(-1, 2).sum(1), jnp.array([0, 2], jnp.float32))
        games = jnp.append(self.finished.reshape(-1, 2).sum(1, dtype=jnp.float32), jnp.array([2, 2], jnp.float32))
        score = points.sum() / games.sum()
        deviation = jnp.sqrt(jnp.sum((points - score * games) ** 2) * len(points) / (len(points) - 1)) / games.sum()
        margin = statistics.NormalDist().inv_cdf((1 + confidence) / 2) * deviation
        return plain_interval(jnp.maximum(score - margin, 0.0), jnp.minimum(score + margin, 1.0))


def plain_interval(low: Float[Array, ""], high: Float[Array, ""]) -> tuple[Number, Number]:
    """Returns the ends as Python floats, or unchanged under `jax.jit` and `jax.vmap`, where they have no value yet."""
    try:
        return float(low), float(high)
    except jax.errors.ConcretizationTypeError:
        return low, high


class Games(eqx.Module):
    """Holds one half of a match in progress, `[G / 2, ...]`: the games in which the first player has the same side.

    `trees` has the search of each player, or None for a player that is not JAX. `returns` are sums of the first
    player's rewards, and `keys` are the keys of the searches. `chance_keys` and `num_draws`, the number of draws so
    far, decide nature's outcomes; they are None in a game without chance.
    """

    env_state: PyTree
    metadata: StepMetadata
    trees: tuple[SearchState | None, SearchState | None]
    returns: Array
    keys: Array
    chance_keys: Array | None = None
    num_draws: Array | None = None


def _search_if_to_move(
    env: Env, player: Player, tree: SearchState, to_move: Array, keys: Array, step: Array
) -> tuple[Array, SearchState]:
    """Searches the games in which a player is to move, if there are any; returns its moves and trees."""

    def run(tree):
        # Under vmap every game is searched. Where the other player is to move, the old tree is put back.
        def one(tree, to_move, key):
            search_key, action_key = jax.random.split(key)
            searched = search(player.mcts, model_of(player.evaluator, env), player.evaluator, tree, key=search_key)
            action = choose_action(player.mcts, searched, key=action_key, num_moves=step)
            return action, jax.tree.map(lambda new, old: jnp.where(to_move, new, old), searched, tree)

        return jax.vmap(one)(tree, to_move, keys)

    return lax.cond(jnp.any(to_move), run, lambda tree: (jnp.zeros(to_move.shape, jnp.int32), tree), tree)


def _play_move(env: Env, players: tuple[Player, Player], games: Games, player_id, step) -> tuple[Games, Array]:
    """Makes one move in every unfinished game of one half; `step` is the number of moves since the opening."""
    first_to_move = games.metadata.cur_player_id == player_id
    (action_0, tree_0), (action_1, tree_1) = (search_side(env, players, games, player_id, step, i) for i in (0, 1))
    action = jnp.where(first_to_move, action_0, action_1)
    return make_moves(env, players, games, (tree_0, tree_1), action, player_id)


def search_side(
    env: Env, players: tuple[Any, Any], games: Games, player_id: Array, step: Array, side: int
) -> tuple[Array, SearchState]:
    """Searches with one of the two players in the games of one half in which it is to move.

    `side` is 0 for the first player and 1 for the second. Returns its moves and trees; other trees are unchanged.
    """
    live, tree = ~games.metadata.terminated, games.trees[side]
    assert tree is not None
    to_move = live & ((games.metadata.cur_player_id == player_id) == (side == 0))
    keys = jax.vmap(jax.random.fold_in, (0, None))(games.keys, step)
    return _search_if_to_move(env, players[side], tree, to_move, keys, step)


def make_moves(
    env: Env,
    players: tuple[Any, Any],
    games: Games,
    trees: tuple[SearchState | None, SearchState | None],
    action: Array,
    player_id: Array,
) -> tuple[Games, Array]:
    """Makes a move in every unfinished game of one half; returns the games, and the moves, -1 where a game was over."""
    live = ~games.metadata.terminated
    make = jax.vmap(lambda *move: make_numbered_move(env, *move[:3], key=move[3]))
    env_state, metadata, num_draws = make(games.env_state, action, games.num_draws, games.chance_keys)

    # Each player keeps its own tree, and follows the moves of both.
    def follow(player: Any, tree: SearchState | None) -> SearchState | None:
        def one(tree, action, *after):
            return advance(player.mcts, tree, action, *after, model=model_of(player.evaluator, env))

        return None if tree is None else jax.vmap(one)(tree, action, env_state, metadata)

    trees = follow(players[0], trees[0]), follow(players[1], trees[1])
    reward = jax.vmap(lambda rewards, player: rewards[player])(metadata.rewards, player_id)
    returns = games.returns + jnp.where(live, reward.astype(jnp.float32), 0)
    keys = games.keys, games.chance_keys
    return Games(env_state, metadata, trees, returns, *keys, num_draws), jnp.where(live, action, -1)


def _new_trees(env: Env, player: Any, env_state: PyTree, metadata: StepMetadata) -> SearchState | None:
    """Makes a tree for each game, `[2, G / 2]`, or None for a player that is not JAX."""
    if not isinstance(player, Player):
        return None

    def one(*position):
        return init_search(player.mcts, *position, model=model_of(player.evaluator, env))

    return jax.vmap(jax.vmap(one))(env_state, metadata)


def both_sides(
    env: Env,
    players: tuple[Any, Any],
    openings: tuple[PyTree, StepMetadata],
    key: PRNGKeyArray,
    chance_key: PRNGKeyArray | None,
    numbers: Int[Array, " G"],
) -> tuple[Games, Int[Array, "2 G"]]:
    """Returns the two halves of a match before their first move, and the first player's ids.

    The first player moves first in half 0. `numbers` has the number of each opening; together with the keys, it decides
    all randomness in the two games.
    """
    env_state, metadata = jax.tree.map(lambda x: jnp.stack([x, x]), openings)
    trees = _new_trees(env, players[0], env_state, metadata), _new_trees(env, players[1], env_state, metadata)
    keys = jnp.stack([jax.vmap(jax.random.fold_in, (None, 0))(key, 2 * numbers + side) for side in (0, 1)])
    mover, dice, no_draws = metadata.cur_player_id[0], None, None
    if chance_key is not None:
        dice = jax.vmap(jax.random.fold_in, (None, 0))(chance_key, numbers)
        dice, no_draws = jnp.stack([dice, dice]), jnp.zeros((2, *numbers.shape), jnp.int32)  # the same in both halves
    returns = jnp.zeros((2, *numbers.shape), jnp.float32)
    games = Games(env_state, metadata, trees, returns, keys, dice, no_draws)
    return games, jnp.stack([mover, 1 - mover])


def play_openings(
    env: Env,
    first: Player,
    second: Player,
    *,
    num_games: int,
    key: PRNGKeyArray,
    opening_moves: int,
    openings: tuple[PyTree, StepMetadata] | None,
    max_moves: int,
    first_opening: int | Int[Array, ""] = 0,
) -> MatchResult:
    """Plays a match between two agents, or a part of one.

    All games advance together. A player's search runs only if the player is to move in at least one game of the half.

    **Arguments:**

    - `first_opening`: the number of the first opening. The number of its opening and `key` decide the randomness of a
        game, so a match may be played in parts with consecutive openings.

    The other arguments are as in [`tz.play_match`][].
    """
    for player in (first, second):  # this is traced code, so the check runs once for each compiled program
        check_player(env, player)
    opening_key, play_key, chance_key = split_with_chance(env, key, 2)
    numbers = first_opening + jnp.arange(num_games // 2, dtype=jnp.int32)
    if openings is None:
        opening_keys = jax.vmap(jax.random.fold_in, (None, 0))(opening_key, numbers)
        openings = jax.vmap(lambda key: random_opening(env, opening_moves, key=key))(opening_keys)
    start, player_ids = both_sides(env, (first, second), openings, play_key, chance_key, numbers)

    def unfinished(carry: Any):
        games, _, move = carry
        return jnp.any(~games.metadata.terminated) & (move < max_moves)

    def play(carry: Any):
        games, actions, move = carry

        def one_half(half):
            return _play_move(env, (first, second), half[0], half[1], move)

        games, action = lax.map(one_half, (games, player_ids))
        return games, actions.at[:, :, move].set(action), move + 1

    actions = jnp.full((2, num_games // 2, max_moves), -1, jnp.int32)
    games, actions, _ = lax.while_loop(unfinished, play, (start, actions, jnp.int32(0)))

    return MatchResult(
        returns=interleaved(games.returns),
        finished=interleaved(games.metadata.terminated & ~start.metadata.terminated),
        player_id=interleaved(player_ids),
        opening=jax.tree.map(interleaved, (start.env_state, start.metadata)),
        actions=interleaved(actions),
        chance_keys=jax.tree.map(interleaved, games.chance_keys),
    )


def interleaved(x: Array) -> Array:
    """Turns `[2, G / 2, ...]`, the two halves, into `[G, ...]`, in which the two games of an opening are neighbours."""
    return jnp.swapaxes(x, 0, 1).reshape(2 * x.shape[1], *x.shape[2:])
