"""Compilation of programs that run only once."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax


class RunOnce:
    """Compiles a function as `eqx.filter_jit` does, but spends little time on making the program fast.

    It does so if the default backend is a CPU. The results are the same up to rounding. It cannot be called inside
    another compiled function, since JAX accepts options for the compiler only for whole programs.

    **Arguments:**

    - `function`: the function, with positional arguments.
    - `level`: the optimisation level of LLVM: 0 for a program without long loops, which is then compiled in about a
        third of the usual time; 1 for one with loops.
    """

    def __init__(self, function: Callable[..., Any], *, level: int = 0):
        self._function, self._level, self._compiled = function, level, eqx.filter_jit(function)

    @functools.cached_property
    def _quick(self) -> Callable[..., Any]:
        @functools.wraps(self._function)
        def whole(*args: Any) -> Any:
            return self._compiled(*args)  # and not `_function`, since JAX keeps what it has traced for `_compiled`

        return eqx.filter_jit(whole, compiler_options=_options(self._level))  # pyright: ignore[reportCallIssue]

    def __call__(self, *args: Any) -> Any:
        """Returns the result of the function. The first call with arguments of new types compiles it."""
        return (self._quick if jax.default_backend() == "cpu" else self._compiled)(*args)

    def shapes(self, *args: Any) -> Any:
        """Returns the shapes and dtypes of the result. A call that follows need not trace the function again."""
        return eqx.filter_eval_shape(self._compiled, *args)


@functools.cache
def _options(level: int) -> dict[str, Any]:
    """Returns the options for XLA that this version of it has; it refuses options that it does not know."""
    options: dict[str, Any] = {"xla_backend_optimization_level": level, "xla_llvm_disable_expensive_passes": True}
    for found in options | {"xla_cpu_use_fusion_emitters": False}, options:
        try:
            jax.jit(lambda: 0, compiler_options=found)()
        except jax.errors.JaxRuntimeError:
            continue
        return found
    return {}
