"""The losses of a sample, and their means over a batch."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from tz._arguments import shown
from tz.learn.trajectory import Sample
from tz.nn.layers import widened
from tz.nn.outputs import categorical_head, policy_and_value, value_loss

Metrics = dict[str, Float[Array, ""]]
Loss = Callable[[PyTree, Any, Sample], tuple[Float[Array, ""], Metrics]]
"""`(network, output, sample) -> (loss, metrics)`, for one sample; `output` is everything that the network returns. The
loss is a scalar, and `metrics` a dict of scalars with any names but "loss" and, in [`tz.train_loop`][], the names that
the loop uses itself, such as "epoch"."""


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


def mean_losses(loss: Loss, network: PyTree, outputs: PyTree, batch: Sample) -> Metrics:
    """Computes the weighted means over a batch of the loss, of its metrics and of the floors of the losses.

    **Raises:** `ValueError` where `losses_of` does.
    """
    losses, metrics = losses_of(loss, network, outputs, batch)
    metrics, weight = metrics | {"loss": losses}, batch.weight
    metrics, means = jax.tree.map(
        lambda x: jnp.sum(weight * x.astype(weight.dtype)) / jnp.sum(weight),
        (metrics, jax.vmap(_of_targets)(batch)),
    )
    return _with_floors(means, outputs, batch) | metrics


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
