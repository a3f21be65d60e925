"""Analyses a position with a player's search and returns plain Python: its move, visits, values and expected line."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from tz._arguments import check_ints, check_one_game, check_position
from tz.games.chance import check_player_to_move, make_move
from tz.games.env import Env, StepMetadata
from tz.games.names import label_of
from tz.matches.players import Player, check_is_player, check_player
from tz.mcts.models import model_of
from tz.mcts.results import action_weights, choose_action, root_value
from tz.mcts.settings import MCTS
from tz.mcts.simulation import init_search, search

_LONGEST_LINE = 12


@dataclasses.dataclass(frozen=True)
class MoveAnalysis:
    """A player's judgement of one legal move.

    **Fields:**

    - `action`: the number of the action.
    - `name`: the name of the move, as [`tz.games.move_label`][] gives it.
    - `prior`: its probability before the search.
    - `policy`: its probability after the search, see [`tz.action_weights`][].
    - `visits`: the number of simulations that began with it.
    - `q`: its value from the perspective of the player who makes it; None if the search did not try it.
    """

    action: int
    name: str
    prior: float
    policy: float
    visits: int
    q: float | None


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A player's judgement of a position.

    **Fields:**

    - `action`: the action that the player would choose.
    - `name`: the name of that move.
    - `value`: the value of the position, from the perspective of the player to move.
    - `moves`: a [`tz.play.MoveAnalysis`][] for every legal move, the highest `policy` first.
    - `line`: the names of the moves that the player expects, its own move first. It has at most 12 moves and ends where
        the search ends; in a game with chance it has only the first.
    - `num_simulations`: the number of simulations of the search.
    """

    action: int
    name: str
    value: float
    moves: tuple[MoveAnalysis, ...]
    line: tuple[str, ...]
    num_simulations: int


def analyse(
    env: Env,
    player: Player,
    position: tuple[PyTree, StepMetadata],
    *,
    num_simulations: int | None = None,
    num_moves: int = 0,
    key: PRNGKeyArray | None = None,
) -> Analysis:
    """Analyses one position with a player's search.

    `tz.play.analyse(env, player, position).name` is the move that the player would make. The search is compiled by the
    first call with a player, and again for another number of simulations.

    **Arguments:**

    - `env`: the game.
    - `player`: a [`tz.Player`][] of this game, such as [`tz.load_agent`][] returns.
    - `position`: a state and its metadata, as `env.init`, `env.step` and [`tz.play_moves`][] return them.
    - `num_simulations`: the simulations of the search, by default as many as in the player's settings.
    - `num_moves`: the number of moves made before the position, for a temperature that depends on it.
    - `key`: the random key of the search and of the choice of the move. The default is always the same key, so the same
        call gives the same answer.

    **Returns:** a [`tz.play.Analysis`][].

    **Raises:** `ValueError` if the player belongs to another game, if the position has no legal move, if nature is
    to move in it, or if `num_simulations` is negative.
    """
    check_is_player("analyse", "player", player)
    _, metadata = check_position("analyse", position)
    check_ints("analyse", num_moves=num_moves)
    check_one_game("analyse", metadata)
    check_player_to_move("analyse", metadata)
    check_player(env, player)
    if bool(metadata.terminated) or not np.any(np.asarray(metadata.action_mask)):
        raise ValueError(
            "analyse: found a position without a legal move, expected one in which the game is not over; analyse an "
            "earlier position."
        )
    key = jax.random.key(0) if key is None else key
    return think(env, with_simulations(player, num_simulations), position, key, num_moves)


def with_simulations(player: Player, num_simulations: int | None) -> Player:
    """Returns the player with this number of simulations (None: its own number), and a new tree for each search."""
    mcts = player.mcts
    number = mcts.num_simulations
    if num_simulations is not None:
        check_ints("num_simulations", num_simulations=num_simulations)
        if num_simulations < 0:
            raise ValueError(
                f"num_simulations: found {num_simulations}, expected at least 0; 0 asks for the policy alone."
            )
        number = int(num_simulations)
    # The number of leaves has to divide the new number of simulations as well.
    leaves = math.gcd(number, mcts.num_leaves)
    changes: dict[str, Any] = {"num_simulations": number, "num_leaves": leaves, "persist_tree": False}
    return Player(dataclasses.replace(mcts, **changes, max_nodes=None), player.evaluator)


class _Answer(eqx.Module):
    """The parts of a finished search that are read on the host."""

    action: Array
    value: Array
    policy: Array
    prior: Array
    visits: Array
    q: Array
    children: Array
    all_visits: Array
    actions: Array | None
    is_chance: Array


@eqx.filter_jit
def _search(
    env: Env, mcts: MCTS, evaluator: Any, state: PyTree, metadata: StepMetadata, key: PRNGKeyArray, num_moves: Array
) -> _Answer:
    model = model_of(evaluator, env)
    search_key, action_key = jax.random.split(key)
    found = search(mcts, model, evaluator, init_search(mcts, state, metadata, model=model), key=search_key)
    tree = found.tree
    return _Answer(
        action=choose_action(mcts, found, key=action_key, num_moves=num_moves),
        value=root_value(mcts, found),
        policy=action_weights(mcts, found),
        prior=found.spread(jnp.exp(tree.logits[0]), 0.0),
        visits=found.spread(tree.visits[0], 0),
        q=found.spread(tree.q[0], 0.0),
        children=tree.children,
        all_visits=tree.visits,
        actions=tree.actions,
        is_chance=jnp.asarray(tree.chance is not None),
    )


@eqx.filter_jit
def next_position(env: Env, state: PyTree, action: Array, key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
    """Returns the position after a move and nature's answer. This function is compiled."""
    return make_move(env, state, action, key=key)


def think(
    env: Env, player: Player, position: tuple[PyTree, StepMetadata], key: PRNGKeyArray, num_moves: int
) -> Analysis:
    """Returns the analysis of a position after `num_moves` moves.

    The caller has checked the player, and that there are legal moves.
    """
    state, metadata = position
    answer = jax.device_get(_search(env, player.mcts, player.evaluator, state, metadata, key, jnp.int32(num_moves)))
    host = jax.device_get(state)
    moves = []
    for action in np.flatnonzero(np.asarray(metadata.action_mask)):
        visits = int(answer.visits[action])
        q = float(answer.q[action]) if visits else None
        prior, policy = float(answer.prior[action]), float(answer.policy[action])
        moves.append(MoveAnalysis(int(action), label_of(env, host, int(action)), prior, policy, visits, q))
    moves.sort(key=lambda move: (-move.policy, -move.visits, move.action))
    action, line = int(answer.action), _line(env, position, answer)
    return Analysis(action, line[0], float(answer.value), tuple(moves), line, player.mcts.num_simulations)


def _line(env: Env, position: tuple[PyTree, StepMetadata], answer: _Answer) -> tuple[str, ...]:
    """Returns the names of the chosen move and of the most visited moves after it.

    Each move is made in the game, since its name depends on the position.
    """
    (state, metadata), action, node, names = position, int(answer.action), 0, []
    while len(names) < _LONGEST_LINE and not metadata.terminated and metadata.action_mask[action]:
        names.append(label_of(env, jax.device_get(state), action))
        slot = action if answer.actions is None else int(np.argmax(answer.actions[node] == action))
        node = int(answer.children[node, slot])
        if node < 0 or answer.is_chance or not answer.all_visits[node].any():
            break
        state, metadata = next_position(env, state, jnp.int32(action), jax.random.key(0))
        slot = int(np.argmax(answer.all_visits[node]))
        action = slot if answer.actions is None else int(answer.actions[node, slot])
    return tuple(names)
