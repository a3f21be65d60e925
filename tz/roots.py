"""What happens to the prior at the root of a search: a root policy is any `(logits, *, key) -> logits`."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class PlainRoot(eqx.Module):
    """Leaves the root's prior as it is: for matches and analysis."""

    def __call__(self, logits: Float[Array, " A"], *, key: PRNGKeyArray) -> Float[Array, " A"]:
        """The same log prior."""
        del key
        return logits


class Dirichlet(eqx.Module):
    """Mixes Dirichlet noise into the root's prior, `(1 - epsilon) * prior + epsilon * noise`, on legal actions only.

    **Fields:** `alpha`, the concentration, above 0 (the paper: 0.3 in chess, 0.03 in Go, about 10 divided by the usual
    number of legal moves); `epsilon`, the share of the noise, from 0 to 1.

    Silver et al., *A general reinforcement learning algorithm that masters chess, shogi, and Go through self-play*,
    Science 2018.
    """

    alpha: float | Float[Array, ""] = 0.3
    epsilon: float | Float[Array, ""] = 0.25

    def __check_init__(self):
        if isinstance(self.alpha, int | float) and not self.alpha > 0:
            raise ValueError(f"Dirichlet: alpha must be above 0, found {self.alpha}.")
        if isinstance(self.epsilon, int | float) and not 0 <= self.epsilon <= 1:
            raise ValueError(f"Dirichlet: epsilon must be from 0 to 1, found {self.epsilon}.")

    def __call__(self, logits: Float[Array, " A"], *, key: PRNGKeyArray) -> Float[Array, " A"]:
        """The noisy log prior; illegal actions (-inf) stay illegal.

        **Arguments:** `logits`, the log prior, -inf where illegal.
        """
        legal = logits > -jnp.inf
        gamma = jax.random.loggamma(key, jnp.asarray(self.alpha, logits.dtype), logits.shape)  # in logs: no underflow
        noise = jax.nn.softmax(jnp.where(legal, gamma, -jnp.inf))
        mixed = (1 - self.epsilon) * jnp.exp(logits) + self.epsilon * noise
        tiny = jnp.finfo(logits.dtype).tiny
        return jnp.where(legal, jnp.log(jnp.maximum(mixed, tiny)), -jnp.inf)
