"""Learning from samples: the state that training carries, AlphaZero's loss, and one gradient step."""

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
from tz.learn.trajectory import Sample
from tz.nn.layers import widened
from tz.nn.outputs import apply, categorical_head, policy_and_value, takes_key, value_loss

Metrics = dict[str, Float[Array, ""]]
Loss = Callable[[PyTree, Any, Sample], tuple[Float[Array, ""], Metrics]]
"""`(network, output, sample) -> (loss, metrics)`, of one sample; `output` is all that the network returns."""

_ADVICE = (
    "an optimiser is given one network, and gradients of the mean loss of a batch, so use none that needs a pair of "
    "networks (optax.lookahead) or the gradient of each sample (optax.contrib.dpsgd)"
)


class TrainState(eqx.Module):
    """What training carries from step to step.

    **Fields:** `network`; `norm_state`, the `eqx.nn.State` of a stateful network, or None; `opt_state`, optax's;
    `step`, gradient steps made; `average`, the network with the running average of its weights, in float32 at least,
    or None; `average_norm_state`, the average of `norm_state` that belongs to it.
    """

    network: PyTree
    norm_state: eqx.nn.State | None
    opt_state: PyTree
    step: Int[Array, ""]
    average: PyTree | None = None
    average_norm_state: eqx.nn.State | None = None

    @property
    def playing(self) -> PyTree:
        """The network that plays: the average where there is one, else the newest."""
        return self.network if self.average is None else jax.tree.map(_like, self.average, self.network)

    @property
    def playing_norm_state(self) -> eqx.nn.State | None:
        """The norm statistics of the network that plays."""
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
    """The state before the first step.

    **Arguments:** `network`, any Equinox module `obs -> (logits, value)`, which may take a `key=`; with `norm_state`
    (both from `eqx.nn.make_with_state`) the stateful form `(obs, norm_state) -> ((logits, value), norm_state)`;
    `average`, whether to keep a running average of the weights.

    **Returns:** the state, in memory of its own: the network given stays usable when the state is donated.

    **Raises:** `ValueError` if the optimiser cannot begin with this network.
    """
    with _calling("init_train: optimizer.init"):
        opt_state = optimizer.init(eqx.filter(network, eqx.is_inexact_array))
    averages = (None, None)
    if average:  # in float32 at least: bfloat16 would round away all that a step adds
        averages = jax.tree.map(lambda x: widened(x) if eqx.is_inexact_array(x) else x, (network, norm_state))
    return jax.tree.map(_owned, TrainState(network, norm_state, opt_state, jnp.int32(0), *averages))


def _owned(x: Any) -> Any:
    """An array in memory of its own, since no buffer can be donated twice, and many optimisers begin with the weights.

    It has no weak type: a gradient step would make it strong, and everything would be compiled again.
    """
    return jnp.array(x, x.dtype) if isinstance(x, jax.Array | np.ndarray) else x


def _like(x: Any, other: Any) -> Any:
    return x.astype(other.dtype) if eqx.is_inexact_array(x) else x


def az_loss(
    network: PyTree, output: Any, sample: Sample, *, l2_reg_lambda: float = 1e-4
) -> tuple[Float[Array, ""], Metrics]:
    """AlphaZero's loss of one sample: policy cross-entropy over legal actions, value loss, L2 of the weights.

    **Arguments:** `network`, for its weights; `output`, what it returned for this sample, see
    [`tz.nn.policy_and_value`][]; `l2_reg_lambda`, the weight of the L2 term (the sum of all squared parameters).

    **Returns:** the loss and the three parts that it is the sum of, `policy_loss` (0 after a fast search, whose policy
    is no target), `value_loss` (that of the network's value head, see [`tz.nn.value_loss`][]: the squared error, unless
    the head is categorical) and `l2_loss`.

    Silver et al., *Mastering the game of Go without human knowledge*, Nature 2017.
    """
    logits = policy_and_value(output)[0].astype(jnp.float32)
    log_policy = jax.nn.log_softmax(jnp.where(sample.action_mask, logits, jnp.finfo(logits.dtype).min))
    policy_loss = -sample.policy_weight * jnp.sum(jnp.where(sample.action_mask, sample.policy * log_policy, 0.0))
    weights = jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array))
    squares = [jnp.sum(jnp.square(widened(w))).astype(jnp.float32) for w in weights]
    l2_loss = jnp.float32(l2_reg_lambda) * sum(squares, jnp.float32(0))
    parts = {"policy_loss": policy_loss, "value_loss": value_loss(output, sample.value), "l2_loss": l2_loss}
    return policy_loss + parts["value_loss"] + l2_loss, parts


def ownership_loss(
    network: PyTree, output: Any, sample: Sample, *, weight: float = 0.25, l2_reg_lambda: float = 1e-4
) -> tuple[Float[Array, ""], Metrics]:
    """[`tz.az_loss`][], and the squared error of a prediction of the final board.

    **Arguments:** `output`, `(logits, value, planes)`, such as that of [`tz.AZResNet`][] with `num_planes`; the
    prediction is the tanh of the planes. `sample`, whose `end.final` says who holds each point of the final board, in
    the shape of the planes: 1 for player 0, -1 for player 1, 0 for neither; it is turned to the player to move.
    `weight`, of the mean over the board; an episode that was cut off has none.

    **Returns:** the loss, and the parts of `az_loss` with `ownership_loss`.

    Wu, *Accelerating self-play learning in Go*, 2019, section 4.1.
    """
    loss, parts = az_loss(network, output, sample, l2_reg_lambda=l2_reg_lambda)
    end, planes = sample.end, output[2]
    if end is None:
        raise AttributeError("sample.end is None")
    if planes.shape != end.final.shape:
        raise TypeError(f"the planes have shape {planes.shape}, but end.final {end.final.shape}")
    held = end.final.astype(jnp.float32) * jnp.where(end.player == 0, 1.0, -1.0)
    error = jnp.mean(jnp.square(jnp.tanh(planes.astype(jnp.float32)) - held))
    parts["ownership_loss"] = jnp.where(end.truncated, 0.0, jnp.float32(weight) * error)
    return loss + parts["ownership_loss"], parts


def _of_targets(sample: Sample) -> Metrics:
    """What the target of one sample alone says about the losses, before the mean over the batch."""
    entropy = jnp.sum(jax.scipy.special.entr(sample.policy))
    return {"policy_loss_floor": sample.policy_weight * entropy, "value": sample.value, "square": sample.value**2}


def _with_floors(means: Metrics, outputs: PyTree, batch: Sample) -> Metrics:
    """The floors of the losses, from the means of `_of_targets`."""
    value, square = means.pop("value"), means.pop("square")
    if (head := categorical_head(outputs)) is None:
        return means | {"value_loss_floor": jnp.maximum(square - jnp.square(value), 0.0)}
    fraction = (batch.weight / jnp.sum(batch.weight)).astype(jnp.float32)
    best = jnp.sum(fraction[:, None] * jax.vmap(head.two_hot)(batch.value), 0)  # the best distribution for all alike
    outside = jnp.sum(fraction * head.is_outside(batch.value))
    return means | {"value_loss_floor": jnp.sum(jax.scipy.special.entr(best)), "value_outside": outside}


def train_step(
    optimizer: optax.GradientTransformation,
    loss: Loss,
    state: TrainState,
    batch: Sample,
    *,
    key: PRNGKeyArray | None = None,
    average_decay: float | Float[Array, ""] = 0.999,
) -> tuple[TrainState, Metrics]:
    """One gradient step on the mean loss of a batch, in which each sample has its weight.

    **Arguments:** `loss`, of one sample, such as [`tz.az_loss`][]; `batch`, samples with a leading batch axis; `key`,
    for a network that takes one, such as one with dropout: each sample gets a key of its own;
    `average_decay`, of the running average of the weights and norm statistics, where the state has one: how much of it
    a step keeps, less in the first steps, so that the initial weights are soon forgotten.

    **Returns:** the next state and the mean of the loss's metrics, with `loss` itself, and with two numbers to compare
    the losses with, which the targets alone decide. `policy_loss_floor` is the entropy of the policy targets: no
    network has a smaller policy loss. `value_loss_floor` is the least value loss of a network that gives every position
    the same value: the variance of the value targets, or for a categorical value head the entropy of the mean of the
    two-hot targets. Such a head adds `value_outside`, the fraction of value targets outside of its support.

    **Raises:** `ValueError` if the optimiser needs more than gradients, parameters and the mean loss of a batch, the
    network takes a key and there is none, or the loss asks for what neither network nor sample has.
    """

    parameters, static = eqx.partition(state.network, eqx.is_inexact_array)
    keys = None
    if takes_key(state.network):
        if key is None:
            raise ValueError(
                f"train_step: found no key, but {type(state.network).__name__} takes one, expected a random key; pass "
                "another in each step, key=jax.random.fold_in(key, state.step)."
            )
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(batch.weight)))

    def mean_loss(parameters: PyTree):
        network = eqx.combine(parameters, static)
        call = jax.vmap(
            lambda observation, key, norm_state: apply(network, observation, norm_state, key=key),
            in_axes=(0, 0, None),
            out_axes=(0, None),
            axis_name="batch",
        )
        outputs, norm_state = call(batch.observation, keys, state.norm_state)
        losses, metrics = losses_of(loss, network, outputs, batch)
        metrics, weight = {"loss": losses} | metrics, batch.weight
        metrics, means = jax.tree.map(
            lambda x: jnp.sum(weight * x.astype(weight.dtype)) / jnp.sum(weight),
            (metrics, jax.vmap(_of_targets)(batch)),
        )
        return metrics["loss"], (_with_floors(means, outputs, batch) | metrics, norm_state)

    gradients, (metrics, norm_state) = jax.grad(mean_loss, has_aux=True)(parameters)
    updates, opt_state = _update(
        optimizer, state.opt_state, parameters, gradients, metrics["loss"], lambda x: mean_loss(x)[0]
    )
    network = eqx.combine(jax.tree.map(_moved, parameters, updates), static)
    average = state.average, state.average_norm_state
    if state.average is not None:
        step = state.step.astype(jnp.float32)
        decay = jnp.minimum(jnp.float32(average_decay), (1 + step) / (10 + step))

        def mix(old, new):
            if not eqx.is_inexact_array(new):
                return new
            rate = decay.astype(old.dtype)
            return rate * old + (1 - rate) * new.astype(old.dtype)

        average = jax.tree.map(mix, average, (network, norm_state))
    return TrainState(network, norm_state, opt_state, state.step + 1, *average), metrics


def losses_of(
    loss: Loss, network: PyTree, outputs: PyTree, batch: Sample
) -> tuple[Float[Array, " B"], dict[str, Float[Array, " B"]]]:
    """The loss of each sample. An output or a record that a loss asks for and does not find is named."""
    try:
        return jax.vmap(loss, in_axes=(None, 0, 0))(network, outputs, batch)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        shapes = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape[1:])}", (outputs, batch.extra, batch.end))
        shapes = [" ".join(str(x).split()) for x in shapes]
        is_number = categorical_head(outputs) is None
        advice = "" if is_number else " A categorical value is no number: tz.nn.value_loss(output, target) is its loss."
        raise ValueError(
            f"train_step: the loss raised {error!r:.300}. It is given what the network returns, found {shapes[0]}, and "
            f"a sample, whose extra is {shapes[1]} and whose end is {shapes[2]}; let the network return what the loss "
            f"asks for, and give self-play the `record` or `record_end` that makes the rest.{advice}"
        ) from error


def _update(
    optimizer: optax.GradientTransformation,
    opt_state: PyTree,
    parameters: PyTree,
    gradients: PyTree,
    value: Float[Array, ""],
    value_fn: Callable[[PyTree], Float[Array, ""]],
) -> tuple[PyTree, PyTree]:
    """The optimiser's updates and new state. Some ask for more than gradients, under the names that optax has for it.

    **Arguments:** `value`, the mean loss of the batch; `value_fn`, the same as a function of the parameters.
    """

    def again(
        parameters, *, grad_fn=None, obj_fn=None
    ):  # a line search refuses keywords that its function does not take
        del grad_fn, obj_fn
        return value_fn(parameters)

    extra = {"value": value, "grad": gradients, "value_fn": again, "obj_fn": value_fn}
    extra["grad_fn"] = lambda parameters, _: jax.grad(value_fn)(parameters)
    known = inspect.signature(optimizer.update).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        extra = {name: x for name, x in extra.items() if name in known}
    with _calling("train_step: optimizer.update"):
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
    """Promotes types and ranks as optax expects, and says in an error whose it is."""
    try:
        with standard_promotion():
            yield
    except Exception as error:
        raise ValueError(f"{where} raised {type(error).__name__}: {error}; {_ADVICE}.") from error
