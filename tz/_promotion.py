"""A context with JAX's standard promotion of types and ranks, whatever the user has configured."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def standard_promotion() -> Iterator[None]:
    """Promotes types and ranks inside the `with` block as pgx and optax expect."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
