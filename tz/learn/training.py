"""Learning from samples: the state of training, and one gradient step."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from tz._promotion import standard_promotion
from tz.learn.losses import Loss, Metrics, mean_losses
from tz.learn.trajectory import Sample
from tz.nn.layers import widened
from tz.nn.outputs import apply, cast_parameters, takes_key

_ADVICE = (
    "use an optimiser that needs one network and the gradient of a mean loss; optax.lookahead needs a pair of "
    "networks, and optax.contrib.dpsgd the gradient of each sample"
)


class TrainState(eqx.Module):
    """The state that training carries from one gradient step to the next.

    **Fields:**

    - `network`: the network with its newest weights.
    - `norm_state`: the `eqx.nn.State` of a stateful network, or None.
    - `opt_state`: the state of the optax optimiser.
    - `step`: the number of gradient steps made.
    - `average`: the network with a running average of its weights, at least in float32; None without one.
    - `average_norm_state`: the running average of `norm_state`; None without one.
    """

    network: PyTree
    norm_state: eqx.nn.State | None
    opt_state: PyTree
    step: Int[Array, ""]
    average: PyTree | None = None
    average_norm_state: eqx.nn.State | None = None

    @property
    def playing(self) -> PyTree:
        """The network that plays, in the dtypes of `network`: the running average if there is one, else the newest."""
        return self.network if self.average is None else jax.tree.map(_like, self.average, self.network)

    @property
    def playing_norm_state(self) -> eqx.nn.State | None:
        """The `norm_state` of the network that plays."""
        if self.average is None:
            return self.norm_state
        return jax.tree.map(_like, self.average_norm_state, self.norm_state)


def init_train(
    optimizer: optax.GradientTransformation,
    network: PyTree,
    norm_state: eqx.nn.State | None = None,
    *,
    average: bool = False,
) -> TrainState:
    """Returns the state before the first gradient step.

    **Arguments:**

    - `optimizer`: any optax optimiser.
    - `network`: any Equinox module `obs -> (logits, value)`, which may take a `key=`. With `norm_state` it is the
        stateful form `(obs, norm_state) -> ((logits, value), norm_state)`.
    - `norm_state`: the state that `eqx.nn.make_with_state` returned with the network, or None.
    - `average`: whether to keep a running average of the weights.

    **Returns:** the state. Its arrays are copies, so `network` can still be used after the state is donated.

    **Raises:** `ValueError` if the optimiser cannot be initialised with this network.
    """
    with _calling("init_train: found an optimizer.init"):
        opt_state = optimizer.init(eqx.filter(network, eqx.is_inexact_array))
    averages = (None, None)
    if average:  # at least in float32: bfloat16 would round away the small change of a step
        averages = jax.tree.map(lambda x: widened(x) if eqx.is_inexact_array(x) else x, (network, norm_state))
    return jax.tree.map(_owned, TrainState(network, norm_state, opt_state, jnp.int32(0), *averages))


def _owned(x: Any) -> Any:
    """Copies an array. Many optimisers keep the weights in their state, and no buffer can be donated twice.

    The copy has a strong type. A gradient step would make a weak type strong, and everything would be compiled again.
    """
    return jnp.array(x, x.dtype) if isinstance(x, jax.Array | np.ndarray) else x


def _like(x: Any, other: Any) -> Any:
    return x.astype(other.dtype) if eqx.is_inexact_array(x) else x


def train_step(
    optimizer: optax.GradientTransformation,
    loss: Loss,
    state: TrainState,
    batch: Sample,
    *,
    key: PRNGKeyArray | None = None,
    average_decay: float | Float[Array, ""] = 0.999,
    dtype: jax.typing.DTypeLike | None = None,
) -> tuple[TrainState, Metrics]:
    """Makes one gradient step on the weighted mean loss of a batch.

    **Arguments:**

    - `optimizer`: the optax optimiser that the state was made with.
    - `loss`: the loss of one sample, such as [`tz.az_loss`][].
    - `state`: from [`tz.init_train`][] or an earlier step.
    - `batch`: samples with a leading batch axis.
    - `key`: needed for a network that takes a key, such as one with dropout. Each sample gets its own key.
    - `average_decay`: the fraction of the running average that a step keeps, if the state has an average. It is smaller
        in the first steps, so that the initial weights are soon forgotten.
    - `dtype`: the dtype that the network's floating-point parameters are cast to before it is called, such as
        `jnp.bfloat16`, which is faster on a GPU. The loss gets the network as it is, and the gradients, the optimiser
        and the new weights keep its dtypes. None, the default, casts nothing.

    **Returns:** the next state, and weighted means over the batch of `loss`, of the metrics of the loss, and of

    - `policy_loss_floor`: the entropy of the policy targets. No network has a smaller policy loss.
    - `value_loss_floor`: the smallest value loss of a network that gives every position the same value. It is the
        variance of the value targets, or for a categorical value head the entropy of the mean two-hot target.
    - `value_outside`: for a categorical value head, the fraction of value targets outside its support.

    **Raises:** `ValueError` if the optimiser needs more than gradients, parameters and the mean loss of a batch, if the
    network takes a key and there is none, if the loss needs something that neither network nor sample has, or if it
    does not return a scalar and a dict of scalars.
    """

    parameters, static = eqx.partition(state.network, eqx.is_inexact_array)
    keys = None
    if takes_key(state.network):
        if key is None:
            raise ValueError(
                f"train_step: found no key, expected one, as {type(state.network).__name__} takes a key; pass another "
                "one in each step, such as key=jax.random.fold_in(key, state.step)."
            )
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(batch.weight)))

    def mean_loss(parameters: PyTree):
        network = eqx.combine(parameters, static)
        called = network if dtype is None else cast_parameters(network, dtype)
        # Batch norm averages over the axis "batch", so all samples have the same next state.
        call = jax.vmap(
            lambda observation, key, norm_state: apply(called, observation, norm_state, key=key),
            in_axes=(0, 0, None),
            out_axes=(0, None),
            axis_name="batch",
        )
        outputs, norm_state = call(batch.observation, keys, state.norm_state)
        metrics = mean_losses(loss, network, outputs, batch)
        return metrics["loss"], (metrics, norm_state)

    gradients, (metrics, norm_state) = jax.grad(mean_loss, has_aux=True)(parameters)
    updates, opt_state = _update(
        optimizer, state.opt_state, parameters, gradients, metrics["loss"], lambda x: mean_loss(x)[0]
    )
    network = eqx.combine(jax.tree.map(_moved, parameters, updates), static)
    average = _averaged(state, (network, norm_state), average_decay)
    return TrainState(network, norm_state, opt_state, state.step + 1, *average), metrics


def _averaged(
    state: TrainState, newest: tuple[PyTree, eqx.nn.State | None], decay: float | Float[Array, ""]
) -> tuple[PyTree, eqx.nn.State | None]:
    """Returns the next running averages of the network and of its `norm_state`, or None for both without an average."""
    if state.average is None:
        return state.average, state.average_norm_state
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(jnp.float32(decay), (1 + step) / (10 + step))

    def mix(old, new):
        if not eqx.is_inexact_array(new):
            return new
        rate = decay.astype(old.dtype)
        return rate * old + (1 - rate) * new.astype(old.dtype)

    return jax.tree.map(mix, (state.average, state.average_norm_state), newest)


def _update(
    optimizer: optax.GradientTransformation,
    opt_state: PyTree,
    parameters: PyTree,
    gradients: PyTree,
    value: Float[Array, ""],
    value_fn: Callable[[PyTree], Float[Array, ""]],
) -> tuple[PyTree, PyTree]:
    """Returns the optimiser's updates and its new state. Some optimisers need more than the gradients.

    **Arguments:** `value`, the mean loss of the batch; `value_fn`, the mean loss as a function of the parameters.
    """

    # optax's line searches pass all extra arguments on to `value_fn` and raise an error for any that it does not take.
    def again(parameters, *, grad_fn=None, obj_fn=None):
        del grad_fn, obj_fn
        return value_fn(parameters)

    # These are the names in optax and optax.contrib. An `update` without `**extra` gets only those that it takes.
    extra = {"value": value, "grad": gradients, "value_fn": again, "obj_fn": value_fn}
    extra["grad_fn"] = lambda parameters, _: jax.grad(value_fn)(parameters)
    known = inspect.signature(optimizer.update).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        extra = {name: x for name, x in extra.items() if name in known}
    with _calling("train_step: found an optimizer.update"):
        return optimizer.update(gradients, opt_state, parameters, **extra)


def _moved(x: Array, update: Array) -> Array:
    if update.shape != x.shape:
        raise ValueError(
            f"train_step: found an update of shape {update.shape} for a parameter of shape {x.shape}, expected the "
            f"same shape; {_ADVICE}."
        )
    return x + update.astype(x.dtype)


@contextmanager
def _calling(where: str) -> Iterator[None]:
    """Promotes types and ranks as optax expects, and adds to optax's errors where they come from."""
    try:
        with standard_promotion():
            yield
    except Exception as error:
        raise ValueError(
            f"{where} that raised {type(error).__name__}: {error}, expected one that runs on this network; {_ADVICE}."
        ) from error
