"""Type checks of every annotated shape, strict promotion of types and ranks, eight devices, and a compilation cache.

The processes of one run share the cache.
"""

import os
import pathlib
import tempfile

import jax
import jaxtyping
import pytest

CACHE = pathlib.Path(os.environ.get("TZ_TEST_CACHE", pathlib.Path(tempfile.gettempdir()) / "tz_test_cache"))
CACHE /= os.environ.get("PYTEST_XDIST_WORKER", "")  # JAX would read what another process has half written
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)  # for the processes that tests start
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_num_cpu_devices", 8)  # for the tests of sharding; the others use the first

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

jaxtyping.install_import_hook("tz", "beartype.beartype")


@pytest.fixture(autouse=True, scope="module")
def _release_compiled_programs():
    """A compiled program holds memory maps, of which Linux allows a process 65,530: without this, the suite crashes."""
    yield
    jax.clear_caches()
