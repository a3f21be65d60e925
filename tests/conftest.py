"""Type checks of every annotated shape, strict promotion of types and ranks, eight devices, and a compilation cache.

The processes of one run share the cache.
"""

import os
import pathlib
import tempfile

import jax
import jaxlib
import jaxtyping
import pytest

# Most of the time of these tests is compilation, and what they claim does not depend on how fast the machine code is.
# So LLVM does not optimise, and kernels are written in the short way: a quarter of the time. Tests that compare bits
# between programs of different shapes are marked `optimised`: there LLVM does. Notebooks and experiments are compiled
# as in use, and so are all tests where TZ_TEST_OPTIMISED is set.
SHORT = "TZ_TEST_OPTIMISED" not in os.environ
if SHORT:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for the processes that tests start
    if jaxlib.version.__version_info__ < (0, 11):  # a flag that XLA does not know ends the process, and 0.12 does not
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"

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


@pytest.fixture(autouse=True)
def _compiled_the_short_way(request):
    optimised = request.node.get_closest_marker("optimised") is not None
    jax.config.update("jax_disable_most_optimizations", SHORT and not optimised)


@pytest.fixture
def standard_promotion():
    """For files that call code of others, which promotes types and ranks: mctx, pgx, and games as users write them."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(autouse=True, scope="module")
def _release_compiled_programs():
    """A compiled program holds memory maps, of which Linux allows a process 65,530: without this, the suite crashes.

    What the small operations are compiled to is kept from module to module as long as there is room.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
