"""Random keys in the states of a game. A search would foresee everything that a game draws with such a key."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from tz.games.env import Env

_CHANGE = np.uint32(0x9E3779B9)  # any constant that changes a key
# The operations that move the numbers of an array without changing them, so that a key remains a key.
_MOVES = {
    "slice",
    "dynamic_slice",
    "gather",
    "squeeze",
    "reshape",
    "broadcast_in_dim",
    "concatenate",
    "select_n",
    "copy",
}


def keys_used(env: Env) -> list[str]:
    """Returns the paths of all keys in the state: typed keys, and `uint32` arrays that `step` or `observe` use as keys.

    A `uint32` array counts as a key if the traced program passes it, or a part of it, to a function of `jax.random`. So
    a board that is stored in words of 32 bits is not mistaken for a key.
    """
    state = jax.eval_shape(lambda key: env.init(key)[0], jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    found = {jax.tree_util.keystr(path) for path, leaf in leaves if _is_typed(leaf)}
    may_be = {jax.tree_util.keystr(path) for path, leaf in leaves if _may_be_key(leaf)}
    if may_be:
        action = jax.ShapeDtypeStruct((), jnp.int32)
        step = jax.make_jaxpr(lambda state, action: env.step(state, action))(state, action).jaxpr
        observe = jax.make_jaxpr(lambda state: env.observe(state))(state).jaxpr
        for index, (path, _) in enumerate(leaves):
            if (name := jax.tree_util.keystr(path)) in may_be:
                found |= {name for jaxpr in (step, observe) if _follow(jaxpr, {jaxpr.invars[index]})[0]}
    return [jax.tree_util.keystr(path) for path, _ in leaves if jax.tree_util.keystr(path) in found]


def with_other_keys(state: PyTree, paths: tuple[str, ...]) -> PyTree:
    """Returns the state with different keys at these paths."""

    def changed(path: Any, leaf: Array) -> Array:
        if jax.tree_util.keystr(path) not in paths:
            return leaf
        if _is_typed(leaf):
            return jax.random.wrap_key_data(jax.random.key_data(leaf) ^ _CHANGE, impl=jax.random.key_impl(leaf))
        return leaf ^ _CHANGE

    return jax.tree_util.tree_map_with_path(changed, state)


def is_same_without_keys(one: PyTree, other: PyTree, paths: tuple[str, ...]) -> Bool[Array, ""]:
    """Returns whether two states are equal apart from the arrays at these paths."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True)
    equal = [(a == b).all() for (path, a), b in pairs if jax.tree_util.keystr(path) not in paths]
    return jnp.stack(equal).all() if equal else jnp.bool_(True)


def _is_typed(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _may_be_key(leaf: Any) -> bool:
    return leaf.dtype == jnp.uint32 and leaf.shape[-1:] in ((2,), (4,))


def _follow(jaxpr: Any, reached: set[Any]) -> tuple[bool, list[bool]]:
    """Follows variables through a traced program.

    **Returns:** whether one of the variables `reached`, or a part of one, becomes a key; and, for each output of the
    program, whether it is such a variable or part.
    """
    reached = set(reached)
    for equation in jaxpr.eqns:
        inputs = [x in reached if not hasattr(x, "val") else False for x in equation.invars]  # literals have a `val`
        if equation.primitive.name == "random_wrap" and any(inputs):
            return True, []
        # The first input of `select_n` only selects among the others, so none of its numbers reaches the output.
        outputs = [equation.primitive.name in _MOVES and any(inputs[equation.primitive.name == "select_n" :])]
        outputs *= len(equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):  # a call of any kind: its inputs are the last ones of the equation
                last = inputs[len(inputs) - len(inner.invars) :]
                is_used, inner_outputs = _follow(
                    inner, {x for x, is_in in zip(inner.invars, last, strict=True) if is_in}
                )
                if is_used:
                    return True, []
                outputs = [any(pair) for pair in itertools.zip_longest(outputs, inner_outputs, fillvalue=False)]
        reached |= {x for x, is_out in zip(equation.outvars, outputs, strict=False) if is_out}
    return False, [x in reached if not hasattr(x, "val") else False for x in jaxpr.outvars]
