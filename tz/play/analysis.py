"""What a player thinks of a position, as plain Python: its move, visits, values and the line that it expects."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from tz._arguments import check_ints, check_one_game
from tz.games.chance import make_move
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
    """What a player thinks of one legal move.

    **Fields:** `action` and its `name`; `prior` and `policy`, its probabilities before and after the search; `visits`;
    `q`, the value of the move for the player who makes it, or None where the search did not try it.
    """

    action: int
    name: str
    prior: float
    policy: float
    visits: int
    q: float | None


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What a player thinks of a position.

    **Fields:** `action` that it would play and its `name`; `value` of the position for the player to move; `moves`,
    every legal one, the most probable first; `line`, the names of the moves that it expects, its own first, up to where
    chance decides or the search ends; `num_simulations`.
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
    key: PRNGKeyArray | None = None,
) -> Analysis:
    """Ask a player about one position: `tz.play.analyse(env, player, position).name` is its move.

    The search is compiled when a player is first asked, and again for another number of simulations.

    **Arguments:**

    - `env`: the game.
    - `player`: such as [`tz.load_agent`][] returns.
    - `position`: a state and its metadata, as `env.init`, `env.step` and [`tz.play_moves`][] return them.
    - `num_simulations`: as many as the player's own settings say by default.
    - `key`: of the search and the choice of the move; always the same one by default.

    **Returns:** an [`tz.play.Analysis`][].

    **Raises:** `ValueError` for a player of another game, a position without a legal move, and fewer simulations
    than 1.
    """
    check_is_player("analyse", "player", player)
    metadata = position[1]
    check_one_game("analyse", metadata)
    check_player(env, player)
    if bool(metadata.terminated) or not np.any(np.asarray(metadata.action_mask)):
        raise ValueError("analyse: found a position without a legal move, expected one in which the game goes on.")
    return think(env, with_simulations(player, num_simulations), position, jax.random.key(0) if key is None else key)


def with_simulations(player: Player, num_simulations: int | None) -> Player:
    """The same player with another number of simulations, and trees that hold one search."""
    mcts = player.mcts
    number = mcts.num_simulations
    if num_simulations is not None:
        check_ints("num_simulations", num_simulations=num_simulations)
        if num_simulations < 1:
            raise ValueError(f"num_simulations: found {num_simulations}, expected at least 1; raise it.")
        number = int(num_simulations)
    leaves = math.gcd(number, mcts.num_leaves)
    changes: dict[str, Any] = {"num_simulations": number, "num_leaves": leaves, "persist_tree": False}
    return Player(dataclasses.replace(mcts, **changes, max_nodes=None), player.evaluator)


class _Answer(eqx.Module):
    """What is read on the host of a search."""

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
def _search(env: Env, mcts: MCTS, evaluator: Any, state: PyTree, metadata: StepMetadata, key: PRNGKeyArray) -> _Answer:
    model = model_of(evaluator, env)
    search_key, action_key = jax.random.split(key)
    found = search(mcts, model, evaluator, init_search(mcts, state, metadata, model=model), key=search_key)
    tree = found.tree
    return _Answer(
        action=choose_action(mcts, found, key=action_key),
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
    """The position after a move and nature's answer, compiled."""
    return make_move(env, state, action, key=key)


def think(env: Env, player: Player, position: tuple[PyTree, StepMetadata], key: PRNGKeyArray) -> Analysis:
    """The analysis of a position that has legal moves by a player of this game."""
    state, metadata = position
    answer = jax.device_get(_search(env, player.mcts, player.evaluator, state, metadata, key))
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
    """The move chosen and the most visited ones after it, made in the game itself, which knows their names."""
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
