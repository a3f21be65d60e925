"""Value heads, which turn the outputs of a network's last layer into a value, and the loss of that value."""

import abc
import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tz._arguments import check_ints, shown

TRANSFORMS = ("none", "muzero", "symlog")


class ValueHead(eqx.Module):
    """Turns the outputs of a network's last layer into its value. It has no parameters."""

    @property
    @abc.abstractmethod
    def num_outputs(self) -> int:
        """The number of outputs of the last layer."""

    @abc.abstractmethod
    def __call__(self, outputs: Float[Array, " num_outputs"]) -> "Float[Array, ''] | CategoricalPrediction":
        """Returns the value, from the outputs of the last layer in float32."""


class TanhValue(ValueHead):
    """Makes a value in (-1, 1), for games whose returns are from -1 to 1. Its loss is the squared error."""

    @property
    def num_outputs(self) -> int:
        """The number of outputs of the last layer, which is 1."""
        return 1

    def __call__(self, outputs: Float[Array, " 1"]) -> Float[Array, ""]:
        """Returns the tanh of the output."""
        return jnp.tanh(outputs[0])


class LinearValue(ValueHead):
    """Makes a value without bounds. Its loss is the squared error, in squared units of the rewards.

    The gradient of this loss grows with the returns. If these are large, the value dominates what the shared layers
    learn, so multiplying all rewards by 100 changes training. With [`tz.nn.CategoricalValue`][] it does not.
    """

    @property
    def num_outputs(self) -> int:
        """The number of outputs of the last layer, which is 1."""
        return 1

    def __call__(self, outputs: Float[Array, " 1"]) -> Float[Array, ""]:
        """Returns the output unchanged."""
        return outputs[0]


class CategoricalValue(ValueHead):
    """Makes a distribution over bins from `low` to `high`, whose mean is the value, for returns of any size.

    A target is represented by weights of the two bins around it, chosen so that their mean is the target ("two-hot").
    The loss is the cross-entropy, whose gradients have the same size for small and large returns. A target outside the
    support counts as the nearest end of the support; [`tz.train_step`][] reports the fraction of such targets.

    The transform decides only the positions of the bins: evenly spaced, or evenly spaced after the transform, which
    makes them denser near 0. The value is the mean of the bins themselves. So the network with the smallest loss
    predicts the expected return, which the search needs. (MuZero takes the mean of the transformed values and
    transforms it back. If the outcome is uncertain, the result is not the expected return: it is too close to 0 for
    outcomes of one sign.)

    **Fields:**

    - `low`, `high`: the ends of the support. It must contain every return of the game from the perspective of the
        player to move. In a game of two players, this means losses as well as wins.
    - `num_bins`: the number of bins, at least 2.
    - `transform`: "none"; "muzero", `sign(x) (sqrt(|x| + 1) - 1) + 0.001 x`; or "symlog", `sign(x) log(|x| + 1)`. The
        last two are for returns of several orders of magnitude.

    **Raises:** `ValueError` if `low` is not less than `high`, an end is not finite, there are fewer than 2 bins or more
    than float32 can tell apart, or the transform is unknown.

    For distributions over returns see Bellemare et al., *A distributional perspective on reinforcement learning*, 2017;
    for the transform "muzero", Schrittwieser et al., *Mastering Atari, Go, chess and shogi by planning with a learned
    model*, 2020, appendix F; for "symlog" and the mean of bins that are not evenly spaced, Hafner et al., *Mastering
    diverse domains through world models*, 2023.
    """

    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)
    num_bins: int = eqx.field(static=True, default=51)
    transform: Literal["none", "muzero", "symlog"] = eqx.field(static=True, default="none")

    def __post_init__(self):
        for name in ("low", "high"):
            end = getattr(self, name)
            if isinstance(end, bool) or not isinstance(end, int | float | np.number):
                raise ValueError(f"CategoricalValue: found {name}={shown(end)}, expected a number; give one.")
            setattr(self, name, float(end))
        check_ints("CategoricalValue", num_bins=self.num_bins)
        self.num_bins = int(self.num_bins)
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"CategoricalValue: found the support from {self.low:g} to {self.high:g}, expected two finite numbers, "
                "the first less than the second; give the smallest and the largest return of the game."
            )
        if self.num_bins < 2:
            raise ValueError(f"CategoricalValue: found num_bins={self.num_bins}, expected at least 2; give 51 or so.")
        if self.transform not in TRANSFORMS:
            raise ValueError(
                f"CategoricalValue: found transform={self.transform!r}, expected one of "
                f"{', '.join(map(repr, TRANSFORMS))}; choose one of them."
            )
        if not (np.diff(self.bins) > 0).all():
            raise ValueError(
                f"CategoricalValue: found {self.num_bins} bins from {self.low:g} to {self.high:g}, which are too close "
                "for float32, expected bins that differ; give fewer bins or a wider support."
            )

    @property
    def num_outputs(self) -> int:
        """The number of bins, as the last layer has one output for each."""
        return self.num_bins

    @property
    def bins(self) -> Float[np.ndarray, " num_bins"]:
        """The returns that the bins stand for, `[num_bins]`, increasing from `low` to `high`."""
        low, high = _transformed(np.array([self.low, self.high]), self.transform)
        bins = _restored(np.linspace(low, high, self.num_bins), self.transform)
        # The ends would be rounded on the way through the transform and back.
        bins[0], bins[-1] = self.low, self.high
        return bins.astype(np.float32)

    def __call__(self, outputs: Float[Array, " num_outputs"]) -> "CategoricalPrediction":
        """Returns the distribution whose logits are the outputs."""
        return CategoricalPrediction(outputs, self)

    def two_hot(self, value: Float[Array, ""]) -> Float[Array, " num_bins"]:
        """Returns weights of the bins whose mean is `value`, with all weight on the two bins around it.

        **Arguments:**

        - `value`: the target. Outside the support it counts as the nearest end.

        **Returns:** `[num_bins]`, weights that sum to 1.
        """
        bins = self.bins
        # The fraction of each interval between two bins that is below the value: ones, then one fraction, then zeros.
        # The weights are the differences of neighbouring entries.
        passed = jnp.clip((jnp.asarray(value, jnp.float32) - bins[:-1]) / np.diff(bins), 0.0, 1.0)
        one, zero = jnp.ones(1, jnp.float32), jnp.zeros(1, jnp.float32)
        return jnp.concatenate([one, passed]) - jnp.concatenate([passed, zero])

    def is_outside(self, value: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """Returns 1 where a value is outside the support by more than rounding errors, and 0 elsewhere."""
        margin = 1e-5 * (self.high - self.low)
        return ((value < self.low - margin) | (value > self.high + margin)).astype(jnp.float32)


class CategoricalPrediction(eqx.Module):
    """The value of a network with a [`tz.nn.CategoricalValue`][], as a distribution over its bins.

    The search gets the mean of the distribution, through [`tz.nn.policy_and_value`][].

    **Fields:**

    - `bin_logits`: `[num_bins]`, float32, the logits of the distribution.
    - `head`: the value head, which has the bins.
    """

    bin_logits: Float[Array, " num_bins"]
    head: CategoricalValue

    def mean(self) -> Float[Array, ""]:
        """Returns the expected return, from the perspective of the player to move."""
        return jnp.sum(jax.nn.softmax(self.bin_logits.astype(jnp.float32)) * self.head.bins)

    def loss(self, target: Float[Array, ""]) -> Float[Array, ""]:
        """Returns the cross-entropy between the two-hot target and the distribution."""
        return -jnp.sum(self.head.two_hot(target) * jax.nn.log_softmax(self.bin_logits.astype(jnp.float32)))


def _transformed(x: Float[np.ndarray, "..."], transform: str) -> Float[np.ndarray, "..."]:
    """Applies a transform of `CategoricalValue` to returns."""
    if transform == "muzero":
        return np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 0.001 * x
    return np.sign(x) * np.log1p(np.abs(x)) if transform == "symlog" else x


def _restored(y: Float[np.ndarray, "..."], transform: str) -> Float[np.ndarray, "..."]:
    """Inverts `_transformed`."""
    if transform == "muzero":
        root = (np.sqrt(1 + 0.004 * (np.abs(y) + 1.001)) - 1) / 0.002
        return np.sign(y) * (root**2 - 1)
    return np.sign(y) * np.expm1(np.abs(y)) if transform == "symlog" else y.copy()


def check_value_head(where: str, head: Any) -> None:
    """Raises `ValueError` if `head` is not a value head but, for example, a class or a name."""
    if not isinstance(head, ValueHead):
        raise ValueError(
            f"{where}: found value_head={shown(head)}, expected a value head; write tz.nn.TanhValue(), "
            "tz.nn.LinearValue() or tz.nn.CategoricalValue(low, high)."
        )
