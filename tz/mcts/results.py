"""The results of a search: its policy, its value, and the move to play."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tz._arguments import check_one_game, check_one_key
from tz._promotion import standard_promotion
from tz.mcts._part_checks import check_result, check_row, name_of
from tz.mcts._solver import solved_result, solved_weights
from tz.mcts.root_policies import RootResult
from tz.mcts.settings import MCTS
from tz.mcts.simulation import SearchState, check_notes


def _read_root(mcts: MCTS, state: SearchState) -> RootResult:
    """Returns the result of a search, over the actions that the root keeps."""
    check_notes(mcts, state)
    root = state.tree.node(jnp.int32(0))

    def read(node):
        found = check_result(f"{name_of(mcts.root)}.read", mcts.root.read(node, state.notes), len(node.logits))
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), found)

    return solved_result(root, read) if mcts.solve else read(root)


def action_weights(mcts: MCTS, state: SearchState) -> Float[Array, " A"]:
    """Returns the policy that a search found, which is the policy target of training.

    The root policy decides how it is read. For most root policies, it is each action's fraction of the visits. It does
    not depend on the temperature. To choose a move, use [`tz.choose_action`][]. Before any simulation, the policy is
    the prior; before [`tz.start_search`][], all legal actions are equally likely.

    **Arguments:**

    - `mcts`: the settings of the search.
    - `state`: the search state, of one game.

    **Returns:** `[A]`, a probability for each action of the game; they sum to 1.

    **Raises:** `ValueError` if the state was made with other settings.
    """
    check_one_game("action_weights", state.metadata)
    return state.spread(_read_root(mcts, state).policy, 0.0)


def root_value(mcts: MCTS, state: SearchState) -> Float[Array, ""]:
    """Returns the value that a search found for its root, from the perspective of the player to move.

    This is the value of the policy that [`tz.action_weights`][] returns, and the value that self-play records. The root
    policy decides how it is read, so it can differ from `state.root.value`, the mean of all returns. Before any
    simulation, it is the evaluator's value.

    **Arguments:**

    - `mcts`: the settings of the search.
    - `state`: the search state, of one game.

    **Returns:** the expected discounted return, a scalar.

    **Raises:** `ValueError` if the state was made with other settings.
    """
    check_one_game("root_value", state.metadata)
    return _read_root(mcts, state).value


def choose_action(
    mcts: MCTS, state: SearchState, *, key: PRNGKeyArray, num_moves: int | Int[Array, ""] = 0
) -> Int[Array, ""]:
    """Draws a move with probabilities proportional to `weights ** (1 / temperature)`.

    The weights come from the root policy (for most root policies, they are the fractions of the visits), and
    `mcts.final_move` may change them. At temperature 0, a move with the largest weight is chosen, and ties are broken
    at random. Before any simulation, the weights follow from the prior.

    **Arguments:**

    - `mcts`: the settings of the search.
    - `state`: the search state, of one game.
    - `key`: a random key, for the draw.
    - `num_moves`: the number of moves made in the game so far, for a temperature that depends on it.

    **Returns:** the action of the game, an int32 scalar.

    **Raises:** `ValueError` if the state was made with other settings.
    """
    check_one_game("choose_action", state.metadata)
    check_one_key("choose_action", key)
    log_weights = _read_root(mcts, state).log_weights
    found = mcts.final_move(state.tree, mcts.discount, log_weights)
    log_weights = check_row(f"final_move {name_of(mcts.final_move)}", found, len(log_weights))
    if mcts.solve:
        log_weights = solved_weights(state.tree.node(jnp.int32(0)), log_weights)
    log_weights = state.spread(log_weights, -jnp.inf)
    log_weights = log_weights - jnp.max(log_weights)
    temperature = mcts.temperature
    if callable(temperature):
        with standard_promotion():  # schedules of optax need it
            temperature = temperature(jnp.asarray(num_moves, jnp.int32))
    temperature = jnp.asarray(temperature, jnp.float32)
    # The largest log weights are 0 now. At temperature 0, all others become -inf, without a division by 0.
    warm = log_weights / jnp.where(temperature > 0, temperature, 1.0)
    tempered = jnp.where((temperature > 0) | (log_weights == 0), warm, -jnp.inf)
    return jax.random.choice(key, jnp.arange(len(tempered), dtype=jnp.int32), p=jnp.exp(tempered))
