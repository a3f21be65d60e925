"""Value heads: how a network's last numbers become a value, for returns of any size, and the loss of that value."""

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
    """What turns the outputs of a network's last layer into its value. It has no parameters of its own."""

    @property
    @abc.abstractmethod
    def num_outputs(self) -> int:
        """The number of outputs that the last layer needs."""

    @abc.abstractmethod
    def __call__(self, outputs: Float[Array, " num_outputs"]) -> "Float[Array, ''] | CategoricalPrediction":
        """The second output of the network, from the outputs of its last layer, in float32."""


class TanhValue(ValueHead):
    """A value in (-1, 1), for games whose returns are from -1 to 1. Its loss is the squared error."""

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    def __call__(self, outputs: Float[Array, " 1"]) -> Float[Array, ""]:
        """The tanh of the output."""
        return jnp.tanh(outputs[0])


class LinearValue(ValueHead):
    """A value without bounds. Its loss is the squared error, in the units of the rewards, squared.

    The gradient of this loss grows with the returns. With large returns the value dominates what the shared layers
    learn, so multiplying all rewards by 100 changes training. With [`tz.nn.CategoricalValue`][] it does not.
    """

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    def __call__(self, outputs: Float[Array, " 1"]) -> Float[Array, ""]:
        """The output itself."""
        return outputs[0]


class CategoricalValue(ValueHead):
    """A distribution over bins from `low` to `high`, whose mean is the value; for returns of any size.

    A target is written as weights of the two bins around it, such that their mean is the target ("two-hot"), and the
    loss is the cross-entropy, whose gradients are of the same size for small and large returns. A target outside of the
    support counts as the end of the support next to it; `train_step` reports how many there are.

    The transform decides only where the bins are: evenly spaced, or evenly spaced after the transform, and so denser
    near 0. The value is the mean of the bins themselves. So the network that has the least loss gives the expected
    return, which the search needs. (MuZero takes the mean of the transformed values, and transforms that back; this
    is less than the expected return wherever the outcome is uncertain.)

    **Fields:**

    - `low`, `high`: the support, which must hold every return of the game, from the perspective of the player to move:
        for two players it has losses as well as wins.
    - `num_bins`: at least 2.
    - `transform`: "none"; "muzero", `sign(x) (sqrt(|x| + 1) - 1) + 0.001 x`; or "symlog", `sign(x) log(|x| + 1)`, for
        returns of several orders of magnitude.

    **Raises:** `ValueError` for a support without an inside, or an unknown transform.

    Bellemare et al., *A distributional perspective on reinforcement learning*, 2017; Schrittwieser et al., *Mastering
    Atari, Go, chess and shogi by planning with a learned model*, 2020, appendix F; Hafner et al., *Mastering diverse
    domains through world models*, 2023 (symlog, and the mean of bins that are not evenly spaced).
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
                "the first less than the second; give the least and the greatest return of the game."
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
                f"CategoricalValue: found {self.num_bins} bins from {self.low:g} to {self.high:g}, too close for "
                "float32 to tell apart, expected numbers that it can; give fewer bins or a wider support."
            )

    @property
    def num_outputs(self) -> int:
        """One for each bin."""
        return self.num_bins

    @property
    def bins(self) -> Float[np.ndarray, " num_bins"]:
        """The return that each bin stands for, rising from `low` to `high`."""
        low, high = _transformed(np.array([self.low, self.high]), self.transform)
        bins = _restored(np.linspace(low, high, self.num_bins), self.transform)
        bins[0], bins[-1] = self.low, self.high
        return bins.astype(np.float32)

    def __call__(self, outputs: Float[Array, " num_outputs"]) -> "CategoricalPrediction":
        """The distribution that has the outputs as its logits."""
        return CategoricalPrediction(outputs, self)

    def two_hot(self, value: Float[Array, ""]) -> Float[Array, " num_bins"]:
        """Weights of the bins whose mean is the value, with all weight on the two bins around it.

        **Arguments:** `value`; outside of the support it counts as the nearest end.

        **Returns:** weights that sum to 1.
        """
        bins = self.bins
        # For each interval, how much of it is below the value: 1, a fraction, or 0.
        passed = jnp.clip((jnp.asarray(value, jnp.float32) - bins[:-1]) / np.diff(bins), 0.0, 1.0)
        one, zero = jnp.ones(1, jnp.float32), jnp.zeros(1, jnp.float32)
        return jnp.concatenate([one, passed]) - jnp.concatenate([passed, zero])

    def is_outside(self, value: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """1 where a value is outside of the support by more than rounding, else 0."""
        margin = 1e-5 * (self.high - self.low)
        return ((value < self.low - margin) | (value > self.high + margin)).astype(jnp.float32)


class CategoricalPrediction(eqx.Module):
    """What a network with a [`tz.nn.CategoricalValue`][] returns as its value.

    **Fields:** `bin_logits`, `[num_bins]`, float32; `head`, which has the bins. The mean is what
    [`tz.nn.policy_and_value`][] gives the search.
    """

    bin_logits: Float[Array, " num_bins"]
    head: CategoricalValue

    def mean(self) -> Float[Array, ""]:
        """The expected return, for the player to move."""
        return jnp.sum(jax.nn.softmax(self.bin_logits.astype(jnp.float32)) * self.head.bins)

    def loss(self, target: Float[Array, ""]) -> Float[Array, ""]:
        """The cross-entropy of the distribution against the two-hot target."""
        return -jnp.sum(self.head.two_hot(target) * jax.nn.log_softmax(self.bin_logits.astype(jnp.float32)))


def _transformed(x: Float[np.ndarray, "..."], transform: str) -> Float[np.ndarray, "..."]:
    if transform == "muzero":
        return np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 0.001 * x
    return np.sign(x) * np.log1p(np.abs(x)) if transform == "symlog" else x


def _restored(y: Float[np.ndarray, "..."], transform: str) -> Float[np.ndarray, "..."]:
    """The inverse of `_transformed`."""
    if transform == "muzero":
        root = (np.sqrt(1 + 0.004 * (np.abs(y) + 1.001)) - 1) / 0.002
        return np.sign(y) * (root**2 - 1)
    return np.sign(y) * np.expm1(np.abs(y)) if transform == "symlog" else y.copy()


def check_value_head(where: str, head: Any) -> None:
    """Raises `ValueError` for something else in the place of a value head, such as a class or a name."""
    if not isinstance(head, ValueHead):
        raise ValueError(
            f"{where}: found value_head={shown(head)}, expected a value head; write tz.nn.TanhValue(), "
            "tz.nn.LinearValue() or tz.nn.CategoricalValue(low, high)."
        )
