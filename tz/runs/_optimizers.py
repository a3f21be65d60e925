"""The optimisers of recipes. Their learning rate is part of their state, so it can change without recompiling."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from tz.learn.settings import LoopState

USUAL_RATES = {"adamw": 3e-3, "muon": 5e-3}
"""The optimisers by name, each with a learning rate for board games on a CPU."""
_MATRICES = {
    2: optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=0),
    4: optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3),
}
"""The axes of weights that Muon takes as inputs and as outputs of a matrix, by the number of axes: two in linear
layers, four in the convolutions of tz."""


def recipe_optimizer(name: str, learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    """Makes the optimiser of a recipe, after gradients are clipped to a norm of 1.

    **Arguments:** as in `Recipe`.

    **Raises:** `ValueError` for another name.
    """
    if name not in USUAL_RATES:
        raise ValueError(
            f"Recipe: found optimizer={name!r}, expected one of {', '.join(USUAL_RATES)}; choose one of them, or "
            "change the optimizer of the settings that build returns."
        )
    clip = "clip", optax.clip_by_global_norm(1.0)
    if name == "adamw":
        step = optax.inject_hyperparams(optax.adamw)(learning_rate, weight_decay=weight_decay)
        return optax.named_chain(clip, ("adam", step))

    def muon(learning_rate):
        return optax.contrib.muon(
            learning_rate,
            weight_decay=weight_decay,
            adam_weight_decay=weight_decay,
            muon_weight_dimension_numbers=_as_matrices,
            consistent_rms=0.2,  # updates are about as large as those of AdamW (Liu et al., arXiv 2502.16982)
        )

    return optax.named_chain(clip, ("muon", optax.inject_hyperparams(muon)(learning_rate)))


def _as_matrices(parameters: PyTree) -> PyTree:
    return jax.tree.map(lambda x: _MATRICES.get(x.ndim), parameters)


def learning_rate_of(state: LoopState) -> Any:
    """Returns the learning rate that the optimiser of a recipe uses in the next gradient step."""
    steps = state.train.opt_state
    return steps["muon" if "muon" in steps else "adam"].hyperparams["learning_rate"]


def is_of_recipe(state: LoopState) -> bool:
    """Returns whether the optimiser of a state is that of a recipe, whose learning rate can be replaced."""
    steps = state.train.opt_state
    step = steps.get("muon", steps.get("adam")) if isinstance(steps, dict) else None
    return "learning_rate" in getattr(step, "hyperparams", {})


def with_learning_rate(state: LoopState, rate: float) -> LoopState:
    """Replaces the learning rate in the state of the optimiser of a recipe."""
    old = learning_rate_of(state)
    # The new rate is committed to devices only if the old one is; otherwise everything would be compiled again.
    new = jnp.full(old.shape, rate, jnp.float32)
    if old.committed:
        new = jax.device_put(new, old.sharding)
    return eqx.tree_at(learning_rate_of, state, new)
