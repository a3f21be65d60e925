"""Evaluators, which judge a position for the search.

An evaluator is any function `(env_state, metadata, key) -> (logits [A], value [])`. The logits may have any range, but
must not be probabilities; the search masks the illegal actions. The value is for the player to move.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from tz._arguments import check_fields, check_instance, check_one_game, check_one_key
from tz.games.chance import make_move
from tz.games.env import Env, StepMetadata
from tz.mcts._any_game import any_game
from tz.nn.outputs import apply, cast_parameters, policy_and_value


class NetworkEvaluator(eqx.Module):
    """Evaluates a position with a network.

    The network is a field, so its parameters are arrays of the evaluator: a compiled search runs with new parameters
    without compiling again.

    **Arguments:**

    - `network`: `obs -> (logits [A], value [])`, or with `norm_state` the stateful form
        `(obs, norm_state) -> ((logits, value), norm_state)`. It is put in inference mode. It may return more than these
        two (see [`tz.nn.policy_and_value`][]) and may take a `key=`.
    - `observe`: `env_state -> obs`, usually `env.observe`.
    - `norm_state`: the `eqx.nn.State` of a stateful network, or None.
    - `dtype`: the dtype that the network's floating-point parameters are cast to, such as `jnp.bfloat16`. None, the
        default, casts nothing.

    All arguments but `dtype` are also fields.

    **Raises:** `ValueError` if `network` is a class instead of an instance.
    """

    network: PyTree
    observe: Callable[[PyTree], PyTree]
    norm_state: eqx.nn.State | None

    def __init__(
        self,
        network: PyTree,
        observe: Callable[[PyTree], PyTree],
        norm_state: eqx.nn.State | None = None,
        *,
        dtype: jax.typing.DTypeLike | None = None,
    ):
        check_instance("NetworkEvaluator", "network", network)
        network = eqx.nn.inference_mode(network)
        if dtype is not None:
            network = cast_parameters(network, dtype)
        self.network = network
        self.observe = observe
        self.norm_state = norm_state

    def __call__(
        self, env_state: PyTree, metadata: StepMetadata, key: PRNGKeyArray
    ) -> tuple[Float[Array, " A"], Float[Array, ""]]:
        """Returns the network's logits and value for the player to move.

        **Arguments:**

        - `env_state`, `metadata`: the position, of one game.
        - `key`: a random key, for networks that take one.
        """
        check_one_game("NetworkEvaluator", metadata)
        return self.predict(self.observe(env_state), key=key)

    def predict(
        self, observation: PyTree, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, " A"], Float[Array, ""]]:
        """Returns the network's logits and value for an observation.

        **Arguments:**

        - `observation`: the network's input, of one game.
        - `key`: a random key, for networks that take one. It may be None, since it changes nothing in inference mode.
        """
        key = jax.random.key(0) if key is None else key
        return policy_and_value(apply(self.network, observation, self.norm_state, key=key)[0])


def uniform_evaluator(
    env_state: PyTree, metadata: StepMetadata, key: PRNGKeyArray
) -> tuple[Float[Array, " A"], Float[Array, ""]]:
    """Evaluates without any knowledge: all actions have the same logit, and every position has the value 0.

    This function is itself an evaluator: pass it to a search without calling it. The search then finds good moves by
    the rewards alone.

    **Arguments:** `env_state`, `metadata` and `key`. Only the number of actions, from `metadata`, is used.

    **Returns:** zeros, `[A]`, and 0.
    """
    del env_state, key
    check_one_game("uniform_evaluator", metadata)
    return jnp.zeros(metadata.action_mask.shape, jnp.float32), jnp.float32(0)


class RolloutEvaluator(eqx.Module):
    """Evaluates a position by rollouts: the value is the mean return of games played to the end with random moves.

    All actions have the same logit. With this evaluator, a search is plain Monte Carlo tree search without a network.

    **Fields:**

    - `env`: the game.
    - `num_rollouts`: the number of rollouts per position.
    - `max_moves`: the number of moves after which a rollout is cut off; its return then counts only the rewards so far.
    - `discount`: the discount of the return, per move; usually the same as in [`tz.MCTS`][].

    **Raises:** `ValueError` if `num_rollouts` or `max_moves` is below 1.
    """

    env: Env
    num_rollouts: int = eqx.field(static=True, default=1)
    max_moves: int = eqx.field(static=True, default=512)
    discount: float | Float[Array, ""] = 1.0

    def __post_init__(self):
        check_fields(self)

    def __check_init__(self):
        if self.num_rollouts < 1 or self.max_moves < 1:
            raise ValueError(
                f"RolloutEvaluator: found num_rollouts={self.num_rollouts} and max_moves={self.max_moves}, expected at "
                "least 1 for both; raise them."
            )

    def __call__(
        self, env_state: PyTree, metadata: StepMetadata, key: PRNGKeyArray
    ) -> tuple[Float[Array, " A"], Float[Array, ""]]:
        """Returns equal logits, and the mean return of the rollouts for the player to move.

        **Arguments:**

        - `env_state`, `metadata`: the position, of one game.
        - `key`: a random key, for the moves and, in a game with chance, for nature.
        """
        check_one_game("RolloutEvaluator", metadata)
        check_one_key("RolloutEvaluator", key)
        player = metadata.cur_player_id

        def rollout(key):
            def body(carry):
                # A game that is over keeps making moves until the others finish. They do not matter: a step from a
                # terminated state leaves it terminated, and its rewards are masked here.
                env_state, metadata, total, weight, step = carry
                legal = jnp.where(metadata.action_mask, jnp.float32(0), -jnp.inf)
                step_key, over = jax.random.fold_in(key, step), metadata.terminated
                action = jax.random.categorical(step_key, legal).astype(jnp.int32)
                chance_key = jax.random.fold_in(step_key, 1)  # not used without chance
                env_state, metadata = make_move(self.env, env_state, action, key=chance_key)
                total = total + jnp.where(over, 0.0, weight * metadata.rewards[player].astype(jnp.float32))
                return env_state, metadata, total, weight * jnp.float32(self.discount), step + 1

            def unfinished(carry):
                return any_game(~carry[1].terminated) & (carry[-1] < self.max_moves)

            one = jnp.ones((), jnp.float32)
            return lax.while_loop(unfinished, body, (env_state, metadata, 0 * one, one, jnp.int32(0)))[2]

        value = jnp.mean(jax.vmap(rollout)(jax.random.split(key, self.num_rollouts)))
        return jnp.zeros(metadata.action_mask.shape, jnp.float32), value
