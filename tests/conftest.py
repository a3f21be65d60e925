"""The set-up of all tests: type checks of annotated shapes, strict promotion, eight devices, and a compilation cache.

The processes of one run share the cache.
"""

import gc
import os
import pathlib
import tempfile

import jax
import jaxlib
import jaxtyping
import pytest

# Most of the time of these tests is compilation, and their claims do not depend on the speed of the machine code. So
# LLVM does not optimise, and XLA writes short kernels, which takes a quarter of the time. Tests that compare bits
# between programs of different shapes are marked `optimised`, and LLVM does optimise them. Notebooks and experiments
# are compiled as users compile them, and so are all tests if TZ_TEST_OPTIMISED is set.
SHORT = "TZ_TEST_OPTIMISED" not in os.environ
if SHORT:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for the processes that tests start
    if jaxlib.version.__version_info__ < (0, 11):  # an unknown flag ends the process, and 0.12 lacks this one
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"

CACHE = pathlib.Path(os.environ.get("TZ_TEST_CACHE", pathlib.Path(tempfile.gettempdir()) / "tz_test_cache"))
CACHE /= os.environ.get("PYTEST_XDIST_WORKER", "")  # no process may read files half written by another
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)  # for the processes that tests start
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_num_cpu_devices", 8)  # for the tests of sharding; other tests use the first

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

if "TZ_TEST_UNTYPED" not in os.environ:  # the checks take a sixth of the time
    jaxtyping.install_import_hook("tz", "beartype.beartype")

# Tracing makes millions of small objects, and hardly any of them are in cycles. Looking for cycles less often
# saves a tenth of the time.
gc.set_threshold(100_000, 20, 100)


@pytest.fixture(autouse=True)
def _compiled_the_short_way(request):
    optimised = request.node.get_closest_marker("optimised") is not None
    jax.config.update("jax_disable_most_optimizations", SHORT and not optimised)


@pytest.fixture
def standard_promotion():
    """Allows promotion of types and ranks, for tests that call mctx, pgx, or games such as users write them."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(autouse=True, scope="module")
def _release_compiled_programs():
    """Drops compiled programs, since they hold memory maps and Linux allows a process only 65,530 of them.

    The programs of small operations are kept from module to module as long as there is room.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()
