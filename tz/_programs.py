"""Compilation of programs that run only once."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax


class RunOnce:
    """Compiles a function as `eqx.filter_jit` does, but on a CPU it spends little time on making the program fast.

    The results are the same up to rounding. It cannot be called inside another compiled function, since JAX accepts
    options for the compiler only for whole programs.

    **Arguments:**

    - `function`: the function, with positional arguments.
    - `level`: the optimisation level of LLVM: 0 for a program without long loops, which is then compiled in about a
        fifth of the usual time; 1 for one with loops.
    """

    def __init__(self, function: Callable[..., Any], *, level: int = 0):
        # Newer versions of XLA do not have the last option, and refuse options that they do not know.
        options: dict[str, Any] = {"xla_backend_optimization_level": level, "xla_llvm_disable_expensive_passes": True}
        if jax.__version_info__ < (0, 11):
            options["xla_cpu_use_fusion_emitters"] = False
        self._compiled = eqx.filter_jit(function)

        @functools.wraps(function)
        def whole(*args: Any) -> Any:
            return self._compiled(*args)  # and not `function`, since JAX keeps what it has traced for `_compiled`

        self._quick = eqx.filter_jit(whole, compiler_options=options)  # pyright: ignore[reportCallIssue]

    def __call__(self, *args: Any) -> Any:
        """Returns the result of the function. The first call with arguments of new types compiles it."""
        return (self._quick if jax.default_backend() == "cpu" else self._compiled)(*args)

    def shapes(self, *args: Any) -> Any:
        """Returns the shapes and dtypes of the result. A call that follows need not trace the function again."""
        return eqx.filter_eval_shape(self._compiled, *args)
