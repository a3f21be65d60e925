"""Learning from samples: the state of training, AlphaZero's loss, and one gradient step."""

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

from tz._arguments import shown
from tz._promotion import standard_promotion
from tz.learn.trajectory import Sample
from tz.nn.layers import widened
from tz.nn.outputs import apply, cast_parameters, categorical_head, policy_and_value, takes_key, value_loss

Metrics = dict[str, Float[Array, ""]]
Loss = Callable[[PyTree, Any, Sample], tuple[Float[Array, ""], Metrics]]
"""`(network, output, sample) -> (loss, metrics)`, for one sample; `output` is everything that the network returns. The
loss is a scalar, and `metrics` a dict of scalars with any names but "loss"."""

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


def az_loss(
    network: PyTree, output: Any, sample: Sample, *, l2_reg_lambda: float = 1e-4
) -> tuple[Float[Array, ""], Metrics]:
    r"""Computes AlphaZero's loss of one sample: policy cross-entropy over legal actions, value loss and L2 penalty.

    With the target policy $\pi$, the network's policy $p$, value loss $\ell$ and parameters $\theta$, the loss is

    $$-w \sum_a \pi(a) \, \log \, p(a) + \ell + c \, \lVert\theta\rVert^2$$

    where $w$ is the sample's policy weight and $c$ is `l2_reg_lambda`.

    **Arguments:**

    - `network`: the network, for its weights.
    - `output`: the output of the network for this sample, see [`tz.nn.policy_and_value`][].
    - `sample`: the sample.
    - `l2_reg_lambda`: the weight of the L2 penalty, which is the sum of all squared parameters.

    **Returns:** the loss, and its three terms: `policy_loss`, which is 0 after a fast search, since its policy is not a
    target; `value_loss`, see [`tz.nn.value_loss`][]; and `l2_loss`.

    The loss is from Silver et al., *Mastering the game of Go without human knowledge*, Nature 2017.
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
    """Computes [`tz.az_loss`][] plus the squared error of a prediction of who holds each point of the final board.

    **Arguments:**

    - `network`, `l2_reg_lambda`: as in `az_loss`.
    - `output`: `(logits, value, planes)`, as [`tz.AZResNet`][] with `num_planes` returns it. The prediction is the tanh
        of the planes, from the perspective of the player to move.
    - `sample`: a sample whose `end.final` has the shape of the planes, with 1 where player 0 holds the point, -1 where
        player 1 does, and 0 where neither does.
    - `weight`: the weight of the mean error over the board. For samples of truncated episodes, the error counts as 0.

    **Returns:** the loss, and the terms of `az_loss` along with `ownership_loss`.

    The target is from Wu, *Accelerating self-play learning in Go*, 2019, section 4.1.
    """
    loss, parts = az_loss(network, output, sample, l2_reg_lambda=l2_reg_lambda)
    end, planes = sample.end, output[2]
    if end is None:  # `train_step` completes these errors with a list of the outputs and records
        raise AttributeError("ownership_loss: found sample.end=None, expected an end; give self-play a record_end.")
    if planes.shape != end.final.shape:
        raise TypeError(
            f"ownership_loss: found planes of shape {planes.shape}, expected {end.final.shape} as in end.final; change "
            "num_planes or record_end."
        )
    held = end.final.astype(jnp.float32) * jnp.where(end.player == 0, 1.0, -1.0)
    error = jnp.mean(jnp.square(jnp.tanh(planes.astype(jnp.float32)) - held))
    parts["ownership_loss"] = jnp.where(end.truncated, 0.0, jnp.float32(weight) * error)
    return loss + parts["ownership_loss"], parts


def _of_targets(sample: Sample) -> Metrics:
    """Returns the terms of one sample from which the floors of the losses are computed."""
    entropy = jnp.sum(jax.scipy.special.entr(sample.policy))
    return {"policy_loss_floor": sample.policy_weight * entropy, "value": sample.value, "square": sample.value**2}


def _with_floors(means: Metrics, outputs: PyTree, batch: Sample) -> Metrics:
    """Returns the floors of the losses, from the means of `_of_targets` over the batch."""
    value, square = means.pop("value"), means.pop("square")
    if (head := categorical_head(outputs)) is None:
        return means | {"value_loss_floor": jnp.maximum(square - jnp.square(value), 0.0)}
    fraction = (batch.weight / jnp.sum(batch.weight)).astype(jnp.float32)
    best = jnp.sum(fraction[:, None] * jax.vmap(head.two_hot)(batch.value), 0)  # the best constant prediction
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
        losses, metrics = losses_of(loss, network, outputs, batch)
        metrics, weight = metrics | {"loss": losses}, batch.weight
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


def losses_of(
    loss: Loss, network: PyTree, outputs: PyTree, batch: Sample
) -> tuple[Float[Array, " B"], dict[str, Float[Array, " B"]]]:
    """Computes the loss and the metrics of each sample.

    **Raises:** `ValueError` if the loss needs data that are missing, with a list of the data that exist, or if it does
    not return a scalar and a dict of scalars.
    """
    try:
        returned = jax.vmap(loss, in_axes=(None, 0, 0))(network, outputs, batch)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        shapes = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape[1:])}", (outputs, batch.extra, batch.end))
        shapes = [" ".join(str(x).split()) for x in shapes]
        is_number = categorical_head(outputs) is None
        advice = "" if is_number else " The value is categorical; its loss is tz.nn.value_loss(output, target)."
        raise ValueError(
            f"train_step: found a loss that raised {error!r:.300}, for a network that returns {shapes[0]}, and a "
            f"sample whose extra is {shapes[1]} and whose end is {shapes[2]}, expected a loss that uses only these; "
            f"make the network return the missing output, or let `record` or `record_end` add the missing data.{advice}"
        ) from error
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], dict):
        raise ValueError(
            f"train_step: found a loss that returned {shown(returned)}, expected a pair (loss, metrics); return the "
            "loss with a dict of metrics, which may be empty: `return loss, {}`."
        )
    losses, metrics = returned
    if "loss" in metrics:
        raise ValueError(
            'train_step: found a loss with a metric "loss", expected another name, since this is the name of the loss '
            "itself; rename the metric."
        )
    for name, x in {"loss": losses, **metrics}.items():
        if jnp.shape(x) != batch.weight.shape:
            raise ValueError(
                f"train_step: found {'a loss' if name == 'loss' else f'a metric {name!r}'} of shape {jnp.shape(x)[1:]} "
                "for a sample, expected a scalar; use jnp.squeeze for an axis of size 1, or jnp.mean."
            )
    return losses, metrics


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
