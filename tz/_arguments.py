"""Checks of what a caller gave: the commonest slips, each named before anything is compiled."""

import dataclasses
import functools
import inspect
import types
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_FUNCTIONS = types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial


def shown(x: Any) -> str:
    """A value for a message: a class or a function by its name, a module by its class, anything else in short."""
    if isinstance(x, type):
        return f"the class {x.__name__}"
    if isinstance(x, functools.partial):
        return f"a functools.partial of {shown(x.func)}"
    if isinstance(x, _FUNCTIONS):
        return f"the function {getattr(x, '__name__', '')}"
    if isinstance(x, jax.Array):
        return f"an array of shape {x.shape}"
    is_short = isinstance(x, str | bool | int | float | np.generic | None)
    return repr(x) if is_short else f"a {type(x).__name__}"


def check_ints(where: str, **numbers: Any) -> None:
    """Raises `ValueError` unless each number is an int of Python or NumPy."""
    for name, x in numbers.items():
        if isinstance(x, bool) or not isinstance(x, int | np.integer):
            is_whole = isinstance(x, float) and x.is_integer()
            fix = f"write {name}={int(x)}" if is_whole else "give a whole number, as it decides the shapes of arrays"
            raise ValueError(f"{where}: found {name}={shown(x)}, expected an int; {fix}.")


def check_fields(settings: Any) -> None:
    """Checks the fields of settings by their annotations, from `__post_init__`, and makes NumPy's ints Python's.

    **Raises:** `ValueError` where a field that is an int has a float, or one that is an object has a class or a
    function that makes such an object.
    """
    where = type(settings).__name__
    for field in dataclasses.fields(settings):
        value, kinds = getattr(settings, field.name), _kinds(field.type)
        if int in kinds and not (value is None and types.NoneType in kinds):
            check_ints(where, **{field.name: value})
            if isinstance(value, np.integer):
                setattr(settings, field.name, int(value))
        elif bool in kinds and isinstance(value, jax.Array):
            raise ValueError(
                f"{where}: found {field.name}={shown(value)}, expected True or False; it decides what is compiled, so "
                "it cannot be mapped over, and each choice is a program of its own."
            )
        elif Any not in kinds:  # such as a dtype, which may be a class
            check_instance(where, field.name, value, tuple(kind for kind in kinds if _is_object(kind)))


def check_instance(where: str, name: str, value: Any, kinds: tuple[type, ...] = ()) -> None:
    """Raises `ValueError` for a class in the place of an instance; or for a function in that of an object of `kinds`.

    **Arguments:** `kinds`, of which the value should be; empty where it may be a function.
    """
    if isinstance(value, type):
        raise ValueError(
            f"{where}: found {name}={value.__name__}, which is a class, expected an instance; write "
            f"{name}={value.__name__}(...), with parentheses."
        )
    if kinds and isinstance(value, _FUNCTIONS):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(
            f"{where}: found {name}={shown(value)}, expected an object of the kind {expected}; call the function that "
            "makes it, with parentheses."
        )


def check_sequence(where: str, name: str, values: Any, kind: type) -> None:
    """Raises `ValueError` unless `values` are a tuple or a list, without a class or a function in place of a `kind`."""
    if not isinstance(values, tuple | list):
        raise ValueError(f"{where}: found {name}={shown(values)}, expected a tuple; write {name}=(..., ).")
    for index, value in enumerate(values):
        check_instance(where, f"{name}[{index}]", value, (kind,))


def check_one_game(where: str, metadata: Any) -> None:
    """Raises `ValueError` if the metadata are those of a batch of games."""
    for name, ndim in {"terminated": 0, "cur_player_id": 0, "action_mask": 1, "rewards": 1}.items():
        check_one(where, name, getattr(metadata, name), ndim)


def check_one(where: str, name: str, x: Any, ndim: int = 0) -> None:
    """Raises `ValueError` if an array of one game has another number of axes."""
    if jnp.ndim(x) > ndim:
        raise ValueError(
            f"{where}: found `{name}` of shape {jnp.shape(x)}, expected {'one axis' if ndim else 'a scalar'}: one "
            "game, no batch axis; jax.vmap the call."
        )


def check_one_key(where: str, key: Any) -> None:
    """Raises `ValueError` for several keys in the place of one."""
    is_typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if jnp.ndim(key) > (0 if is_typed else 1):
        raise ValueError(
            f"{where}: found {'keys' if is_typed else 'old-style keys'} of shape {jnp.shape(key)}, expected a single "
            "key; give one of them, or jax.vmap the call over the keys."
        )


def check_evaluator(where: str, evaluator: Any) -> None:
    """Raises `ValueError` for what cannot be called with a state, its metadata and a key, such as a network."""
    check_instance(where, "evaluator", evaluator)
    if not takes(evaluator, 3):
        raise ValueError(
            f"{where}: found {shown(evaluator)} as the evaluator, expected a function (env_state, metadata, key) -> "
            "(logits, value); wrap a network in one: tz.NetworkEvaluator(network, env.observe)."
        )


def takes(function: Any, num_arguments: int) -> bool:
    """Whether a function can be called with so many arguments; True where that cannot be known."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*range(num_arguments))
    except ValueError:  # it has no signature to be found
        return True
    except TypeError:
        return False
    return True


def _kinds(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _is_object(kind: Any) -> bool:
    return isinstance(kind, type) and kind.__module__.startswith(("tz.", "optax.")) and not typing.get_origin(kind)
