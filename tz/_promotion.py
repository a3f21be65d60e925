"""JAX's own promotion of types and ranks, for code that relies on it whatever the user has set for theirs."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def standard_promotion() -> Iterator[None]:
    """Within it, types and ranks are promoted as pgx and optax expect."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
