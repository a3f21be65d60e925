"""Compiled programs that run only once, and arguments of those that run very often."""

import functools
from collections.abc import Callable, Iterable
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


@jax.tree_util.register_pytree_node_class
class Leaves:
    """A PyTree as a tuple of its arrays, for a compiled function that is called very often.

    Before a call, JAX and Equinox take all arguments apart, and hash and compare what is not an array. For a network
    this takes about a millisecond, as long as a small gradient step. Here the tree is taken apart and hashed once, when
    it is made into leaves, and each call only compares.

    **Arguments:** `tree`, a PyTree whose leaves that are not arrays can be hashed.
    """

    def __init__(self, tree: Any):
        leaves, structure = jax.tree.flatten(tree)
        self.arrays = tuple(filter(eqx.is_array, leaves))
        self._rest = _Rest(tuple(None if eqx.is_array(leaf) else leaf for leaf in leaves), structure)

    def tree(self) -> Any:
        """Returns the tree that this was made from, with the arrays that are here now."""
        arrays = iter(self.arrays)
        leaves = [next(arrays) if leaf is None else leaf for leaf in self._rest.leaves]
        return jax.tree.unflatten(self._rest.structure, leaves)

    def tree_flatten(self) -> tuple[tuple[Any, ...], "_Rest"]:
        return self.arrays, self._rest

    @classmethod
    def tree_unflatten(cls, rest: "_Rest", arrays: Iterable[Any]) -> "Leaves":
        self = object.__new__(cls)
        self.arrays, self._rest = tuple(arrays), rest
        return self


class _Rest:
    """The parts of a PyTree that are not arrays, and its structure. Their hash is computed once."""

    def __init__(self, leaves: tuple[Any, ...], structure: Any):
        self.leaves, self.structure = leaves, structure
        self._hash = hash((leaves, structure))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, _Rest) and (self.structure, self.leaves) == (other.structure, other.leaves)
