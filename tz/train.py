"""Learning from samples: the state that training carries, AlphaZero's loss, and one gradient step."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from tz.trajectory import Sample

Metrics = dict[str, Float[Array, ""]]
Loss = Callable[[PyTree, tuple[Array, Array], Sample], tuple[Float[Array, ""], Metrics]]
"""`(network, (logits, value), sample) -> (loss, metrics)`, of one sample."""


class TrainState(eqx.Module):
    """What training carries from step to step.

    **Fields:** `network`; `norm_state`, the `eqx.nn.State` of a stateful network, or None; `opt_state`, optax's;
    `step`, gradient steps made; `average`, the network with the running average of its weights, or None;
    `average_norm_state`, the average of `norm_state` that belongs to it.
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
        return self.network if self.average is None else self.average

    @property
    def playing_norm_state(self) -> eqx.nn.State | None:
        """The norm statistics of the network that plays."""
        return self.norm_state if self.average is None else self.average_norm_state


def init_train(
    optimizer: optax.GradientTransformation,
    network: PyTree,
    norm_state: eqx.nn.State | None = None,
    *,
    average: bool = False,
) -> TrainState:
    """The state before the first step.

    **Arguments:** `network`, any Equinox module `obs -> (logits, value)`; with `norm_state` (both from
    `eqx.nn.make_with_state`) the stateful form `(obs, norm_state) -> ((logits, value), norm_state)`; `average`, whether
    to keep a running average of the weights.
    """
    # Without weak types: a gradient step would make them strong, and everything would be compiled again.
    network = jax.tree.map(lambda x: jnp.asarray(x, x.dtype) if eqx.is_array(x) else x, network)
    opt_state = optimizer.init(eqx.filter(network, eqx.is_inexact_array))
    copied = (network, norm_state) if average else (None, None)
    copies = jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, copied)
    return TrainState(network, norm_state, opt_state, jnp.int32(0), *copies)


def az_loss(
    network: PyTree, output: tuple[Float[Array, " A"], Float[Array, ""]], sample: Sample, *, l2_reg_lambda: float = 1e-4
) -> tuple[Float[Array, ""], Metrics]:
    """AlphaZero's loss of one sample: policy cross-entropy over legal actions, squared value error, L2 of the weights.

    **Arguments:** `network`, for its weights; `output`, its logits and value for this sample; `l2_reg_lambda`, the
    weight of the L2 term (the sum of all squared parameters).

    **Returns:** the loss and its parts, `policy_loss`, `value_loss` and `l2_loss` (already weighted).

    Silver et al., *Mastering the game of Go without human knowledge*, Nature 2017.
    """
    logits, value = output
    log_policy = jax.nn.log_softmax(jnp.where(sample.action_mask, logits, jnp.finfo(logits.dtype).min))
    policy_loss = -jnp.sum(jnp.where(sample.action_mask, sample.policy * log_policy, 0.0))
    value_loss = jnp.square(value - sample.value)
    weights = jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array))
    l2_loss = l2_reg_lambda * sum((jnp.sum(jnp.square(w)) for w in weights), jnp.float32(0))
    loss = sample.policy_weight * policy_loss + value_loss + l2_loss
    return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "l2_loss": l2_loss}


def train_step(
    optimizer: optax.GradientTransformation,
    loss: Loss,
    state: TrainState,
    batch: Sample,
    *,
    average_decay: float | Float[Array, ""] = 0.999,
) -> tuple[TrainState, Metrics]:
    """One gradient step on the mean loss of a batch, in which each sample has its weight.

    **Arguments:** `loss`, of one sample, such as [`tz.az_loss`][]; `batch`, samples with a leading batch axis;
    `average_decay`, of the running average of the weights and norm statistics, where the state has one: how much of it
    a step keeps, less in the first steps, so that the initial weights are soon forgotten.

    **Returns:** the next state and the mean of the loss's metrics, with `loss` itself.
    """

    def mean_loss(network: Any):
        if state.norm_state is None:
            outputs, norm_state = jax.vmap(network)(batch.observation), None
        else:
            apply = jax.vmap(network, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
            outputs, norm_state = apply(batch.observation, state.norm_state)
        losses, metrics = jax.vmap(loss, in_axes=(None, 0, 0))(network, outputs, batch)
        metrics = {"loss": losses} | metrics
        means = jax.tree.map(lambda x: jnp.sum(batch.weight * x) / jnp.sum(batch.weight), metrics)
        return means["loss"], (means, norm_state)

    gradients, (metrics, norm_state) = eqx.filter_grad(mean_loss, has_aux=True)(state.network)
    parameters = eqx.filter(state.network, eqx.is_inexact_array)
    updates, opt_state = optimizer.update(gradients, state.opt_state, parameters)
    network = eqx.apply_updates(state.network, updates)
    average = state.average, state.average_norm_state
    if state.average is not None:
        decay = jnp.minimum(average_decay, (1 + state.step) / (10 + state.step))

        def mix(old, new):
            return decay * old + (1 - decay) * new if eqx.is_inexact_array(new) else new

        average = jax.tree.map(mix, average, (network, norm_state))
    return TrainState(network, norm_state, opt_state, state.step + 1, *average), metrics
