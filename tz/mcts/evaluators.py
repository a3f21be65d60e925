"""What a search believes of a position: an evaluator is any `(env_state, metadata, key) -> (logits [A], value [])`.

Logits, not probabilities, and in any range; the search masks the illegal actions. The value is for the player to move.
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
from tz.nn.outputs import apply, policy_and_value


class NetworkEvaluator(eqx.Module):
    """Evaluates a position with a network, which it carries as a PyTree: new weights need no new compilation.

    **Fields:**

    - `network`: `obs -> (logits [A], value [])`, or with `norm_state` the stateful form
        `(obs, norm_state) -> ((logits, value), norm_state)`. It is put in inference mode. It may return more, see
        [`tz.nn.policy_and_value`][], and may take a `key=`.
    - `observe`: `env_state -> obs`, usually `env.observe`.
    - `norm_state`: the `eqx.nn.State` of a stateful network, or None.

    **Arguments:** `dtype`, to run the network in, such as `jnp.bfloat16`: its floating-point parameters are cast.
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
            network = jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, network)
        self.network = network
        self.observe = observe
        self.norm_state = norm_state

    def __call__(
        self, env_state: PyTree, metadata: StepMetadata, key: PRNGKeyArray
    ) -> tuple[Float[Array, " A"], Float[Array, ""]]:
        """The network's logits and value for the player to move."""
        check_one_game("NetworkEvaluator", metadata)
        return self.predict(self.observe(env_state), key=key)

    def predict(
        self, observation: PyTree, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, " A"], Float[Array, ""]]:
        """The network's logits and value for an observation."""
        key = jax.random.key(0) if key is None else key  # in inference mode it decides nothing
        return policy_and_value(apply(self.network, observation, self.norm_state, key=key)[0])


def uniform_evaluator(
    env_state: PyTree, metadata: StepMetadata, key: PRNGKeyArray
) -> tuple[Float[Array, " A"], Float[Array, ""]]:
    """Knows nothing: every action is as good as another, every position is worth 0."""
    del env_state, key
    check_one_game("uniform_evaluator", metadata)
    return jnp.zeros(metadata.action_mask.shape, jnp.float32), jnp.float32(0)


class RolloutEvaluator(eqx.Module):
    """Values a position by the mean result of games played on at random; every action is as likely as another.

    **Fields:** `env`; `num_rollouts`, games a position; `max_moves`, after which a game counts as what it has brought
    so far; `discount`, of the return, a step.
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
                f"RolloutEvaluator: num_rollouts and max_moves must be at least 1, found {self.num_rollouts} and "
                f"{self.max_moves}."
            )

    def __call__(
        self, env_state: PyTree, metadata: StepMetadata, key: PRNGKeyArray
    ) -> tuple[Float[Array, " A"], Float[Array, ""]]:
        """Equal logits and the mean return of the rollouts for the player to move."""
        check_one_game("RolloutEvaluator", metadata)
        check_one_key("RolloutEvaluator", key)
        player = metadata.cur_player_id

        def rollout(key):
            def body(carry):
                # A finished game stays as it is: a terminal state absorbs and its rewards are zero.
                env_state, metadata, total, weight, step = carry
                legal = jnp.where(metadata.action_mask, jnp.float32(0), -jnp.inf)
                step_key, over = jax.random.fold_in(key, step), metadata.terminated
                action = jax.random.categorical(step_key, legal).astype(jnp.int32)
                chance_key = jax.random.fold_in(step_key, 1)  # without chance it is not used
                env_state, metadata = make_move(self.env, env_state, action, key=chance_key)
                total = total + jnp.where(over, 0.0, weight * metadata.rewards[player].astype(jnp.float32))
                return env_state, metadata, total, weight * jnp.float32(self.discount), step + 1

            def unfinished(carry):
                return any_game(~carry[1].terminated) & (carry[-1] < self.max_moves)

            one = jnp.ones((), jnp.float32)
            return lax.while_loop(unfinished, body, (env_state, metadata, 0 * one, one, jnp.int32(0)))[2]

        value = jnp.mean(jax.vmap(rollout)(jax.random.split(key, self.num_rollouts)))
        return jnp.zeros(metadata.action_mask.shape, jnp.float32), value
