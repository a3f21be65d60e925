"""The results of a search: its policy, its value, and the move to play."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tz._arguments import check_one_game, check_one_key
from tz._promotion import standard_promotion
from tz.mcts._solver import solved_result, solved_weights
from tz.mcts.root_policies import RootResult
from tz.mcts.settings import MCTS
from tz.mcts.simulation import SearchState, check_notes


def _read_root(mcts: MCTS, state: SearchState) -> RootResult:
    """The conclusions of the search, for the actions that the root keeps; before a simulation, those of the prior."""
    check_notes(mcts, state)
    root = state.tree.node(jnp.int32(0))

    def read(node):
        return jax.tree.map(lambda x: x.astype(jnp.float32), mcts.root.read(node, state.notes))

    return solved_result(root, read) if mcts.solve else read(root)


def action_weights(mcts: MCTS, state: SearchState) -> Float[Array, " A"]:
    """The search's policy, `[A]`, as its root policy has it: for most, the fractions of the visits. It sums to 1.

    The temperature does not enter: this is the policy target of training, [`tz.choose_action`][] chooses a move. Before
    any simulation it is the prior; before [`tz.start_search`][] all legal actions are equally likely.
    """
    check_one_game("action_weights", state.metadata)
    return state.spread(_read_root(mcts, state).policy, 0.0)


def root_value(mcts: MCTS, state: SearchState) -> Float[Array, ""]:
    """The search's value of the position, from the perspective of the player to move.

    It is the value of the policy that [`tz.action_weights`][] returns, and is what self-play records. Each root policy
    has its own; `state.root.value`, the mean of all returns, is only that of a policy of visits. Before any simulation
    it is the evaluator's value.
    """
    check_one_game("root_value", state.metadata)
    return _read_root(mcts, state).value


def choose_action(
    mcts: MCTS, state: SearchState, *, key: PRNGKeyArray, num_moves: int | Int[Array, ""] = 0
) -> Int[Array, ""]:
    """Draws a move from `weights ** (1 / temperature)`; at temperature 0, from the best (ties at random).

    The weights are those of the root policy, for most the fractions of the visits, as changed by `mcts.final_move`.
    Before any simulation they are the prior.

    **Arguments:** `num_moves`, made in the game before this one, for a temperature that depends on it.
    """
    check_one_game("choose_action", state.metadata)
    check_one_key("choose_action", key)
    log_weights = mcts.final_move(state.tree, mcts.discount, _read_root(mcts, state).log_weights)
    if mcts.solve:
        log_weights = solved_weights(state.tree.node(jnp.int32(0)), log_weights)
    log_weights = state.spread(log_weights, -jnp.inf)
    log_weights = log_weights - jnp.max(log_weights)
    temperature = mcts.temperature
    if callable(temperature):
        with standard_promotion():  # a schedule of optax
            temperature = temperature(jnp.asarray(num_moves, jnp.int32))
    temperature = jnp.asarray(temperature, jnp.float32)
    warm = log_weights / jnp.where(temperature > 0, temperature, 1.0)
    tempered = jnp.where((temperature > 0) | (log_weights == 0), warm, -jnp.inf)  # at 0 only the best are left
    return jax.random.choice(key, jnp.arange(len(tempered), dtype=jnp.int32), p=jnp.exp(tempered))
