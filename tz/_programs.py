"""Compilation of programs that run only once."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jaxlib


def jit_to_run_once(function: Callable[..., Any], *, level: int = 0) -> Callable[..., Any]:
    """Compiles a function as `eqx.filter_jit` does, but on a CPU it spends little time on making the program fast.

    The results are the same up to rounding. When the function is called with traced arguments, the program around it
    decides how it is compiled.

    **Arguments:**

    - `function`: the function, with positional arguments.
    - `level`: the optimisation level of LLVM: 0 for a program without long loops, which is then compiled in about a
        fifth of the usual time; 1 for one with loops.
    """
    # Newer versions of XLA do not have the last option, and refuse options that they do not know.
    options: dict[str, Any] = {"xla_backend_optimization_level": level, "xla_llvm_disable_expensive_passes": True}
    if jaxlib.version.__version_info__ < (0, 11):
        options["xla_cpu_use_fusion_emitters"] = False
    compiled = eqx.filter_jit(function)

    @functools.wraps(function)
    def whole(*args: Any) -> Any:
        return compiled(*args)  # and not `function`, since JAX keeps what it has traced for `compiled`

    quick = eqx.filter_jit(whole, compiler_options=options)  # pyright: ignore[reportCallIssue]

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        # JAX accepts options for the compiler only for whole programs.
        is_traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args))
        return (compiled if is_traced or jax.default_backend() != "cpu" else quick)(*args)

    return call
