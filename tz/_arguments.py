"""Checks of arguments, which report the most common mistakes of callers before anything is compiled."""

import dataclasses
import functools
import inspect
import math
import types
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_FUNCTIONS = types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial


def shown(x: Any) -> str:
    """Describes a value in a message: by its name, for a class or function, or by its shape, its value or its type."""
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


def shown_settings(settings: Any, indent: int = 0) -> str:
    """Writes settings as the call that makes them, with only those fields that differ from their defaults."""
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        if isinstance(settings, tuple | list) and not hasattr(settings, "_fields"):
            inner = ", ".join(shown_settings(x, indent) for x in settings)
            return f"({inner},)" if len(settings) == 1 else f"({inner})"
        return shown(settings)
    parts = [
        f"{field.name}={shown_settings(value, indent + 4)}"
        for field in dataclasses.fields(settings)
        if field.repr and not _is_default(value := getattr(settings, field.name), field.default)
    ]
    name, line = type(settings).__name__, ", ".join(parts)
    if "\n" not in line and indent + len(name) + len(line) < 100:
        return f"{name}({line})"
    return f"{name}(\n" + "".join(" " * (indent + 4) + f"{part},\n" for part in parts) + " " * indent + ")"


def _is_default(value: Any, default: Any) -> bool:
    """Returns True if a field has its default. An array that is being traced never counts as the default."""
    if default is dataclasses.MISSING or type(value) is not type(default):
        return False
    equal = value == default
    return False if isinstance(equal, Tracer) else bool(np.all(equal))


def check_ints(where: str, **numbers: Any) -> None:
    """Raises `ValueError` unless each number is a Python or NumPy int."""
    for name, x in numbers.items():
        if isinstance(x, bool) or not isinstance(x, int | np.integer):
            is_whole = isinstance(x, float) and x.is_integer()
            fix = f"write {name}={int(x)}" if is_whole else "give a whole number, as it decides the shapes of arrays"
            raise ValueError(f"{where}: found {name}={shown(x)}, expected an int; {fix}.")


def check_fields(settings: Any) -> None:
    """Checks the fields of settings against their annotations, and converts NumPy ints to Python ints.

    Settings classes call it in `__post_init__`.

    **Raises:** `ValueError` if an int field has another type, a bool field has an array, or an object field has a class
    or a function.
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
                f"{where}: found {field.name}={shown(value)}, expected True or False; give a Python "
                "bool, since each choice is compiled on its own and jax.vmap cannot map over it."
            )
        elif Any not in kinds:  # a dtype, for instance, is annotated with Any and may be a class
            check_instance(where, field.name, value, tuple(kind for kind in kinds if _is_object(kind)))


def check_instance(where: str, name: str, value: Any, kinds: tuple[type, ...] = ()) -> None:
    """Raises `ValueError` for a class in place of an instance, and for a function in place of an object of `kinds`.

    `kinds` are the expected types; leave them empty where a function is allowed.
    """
    if isinstance(value, type):
        raise ValueError(
            f"{where}: found {name}={value.__name__}, which is a class, expected an instance; write "
            f"{name}={value.__name__}(...), with parentheses."
        )
    if kinds and isinstance(value, _FUNCTIONS):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(
            f"{where}: found {name}={shown(value)}, expected an object of type {expected}; call the function that "
            "makes one, with parentheses."
        )


def check_number(
    where: str, name: str, value: Any, low: float = 0.0, high: float = math.inf, *, above: bool = False
) -> None:
    """Raises `ValueError` for a Python number that is not from `low` to `high`, or with `above` not above `low`.

    An array may be traced, so its numbers are not looked at.
    """
    if isinstance(value, int | float) and not (low < value <= high if above else low <= value <= high):
        span = f"{'above' if above else 'of at least'} {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise ValueError(f"{where}: found {name}={value}, expected a number {span}; change it.")


def check_sequence(where: str, name: str, values: Any, kind: type) -> None:
    """Raises `ValueError` unless `values` is a tuple or list in which no class or function stands in for a `kind`."""
    if not isinstance(values, tuple | list):
        raise ValueError(f"{where}: found {name}={shown(values)}, expected a tuple; write {name}=(..., ).")
    for index, value in enumerate(values):
        check_instance(where, f"{name}[{index}]", value, (kind,))


_AXES = {
    "rewards": "an entry for each player; in a game for one, write `reward[None]`",
    "action_mask": "an entry for each action; return them all from `init` and `step`",
}


def check_axes(where: str, metadata: Any) -> None:
    """Raises `ValueError` if the metadata lacks the axis of players or actions."""
    for name, advice in _AXES.items():
        if jnp.ndim(getattr(metadata, name)) == 0:
            raise ValueError(f"{where}: found `{name}` as a scalar, expected one axis, {advice}.")


def check_one_game(where: str, metadata: Any) -> None:
    """Raises `ValueError` if the metadata has a batch axis, or lacks the axis of players or actions."""
    check_axes(where, metadata)
    for name, ndim in {"terminated": 0, "cur_player_id": 0, "action_mask": 1, "rewards": 1}.items():
        check_one(where, name, getattr(metadata, name), ndim)


def check_position(where: str, position: Any) -> tuple[Any, Any]:
    """Returns the state and the metadata of a position, or of several.

    **Raises:** `ValueError` unless it is a pair whose second part is metadata.
    """
    fields = ("action_mask", "terminated", "cur_player_id")
    is_pair = isinstance(position, tuple | list) and len(position) == 2
    if not is_pair or not all(hasattr(position[1], name) for name in fields):
        raise ValueError(
            f"{where}: found {shown(position)} as a position, expected a pair of a state and its metadata; give what "
            "env.init, env.step or tz.play_moves returns, both parts of it."
        )
    return position[0], position[1]


def check_one(where: str, name: str, x: Any, ndim: int = 0) -> None:
    """Raises `ValueError` if an array has more than `ndim` axes, as it has with a batch axis."""
    if jnp.ndim(x) > ndim:
        raise ValueError(
            f"{where}: found `{name}` of shape {jnp.shape(x)}, expected {'one axis' if ndim else 'a scalar'}: one "
            "game, no batch axis; jax.vmap the call."
        )


def check_one_key(where: str, key: Any) -> None:
    """Raises `ValueError` for several keys in place of one, and for a seed or anything else that is not a key."""
    is_typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    is_old = jnp.ndim(key) > 0 and getattr(key, "dtype", None) == jnp.uint32
    if not is_typed and not is_old:
        seed = key if isinstance(key, int) else "seed"
        raise ValueError(f"{where}: found key={shown(key)}, expected a random key; write jax.random.key({seed}).")
    if jnp.ndim(key) > (0 if is_typed else 1):
        raise ValueError(
            f"{where}: found {'keys' if is_typed else 'old-style keys'} of shape {jnp.shape(key)}, expected a single "
            "key; give one of them, or jax.vmap the call over the keys."
        )


def check_evaluator(where: str, evaluator: Any) -> None:
    """Raises `ValueError` unless the evaluator can be called with a state, its metadata and a key; a network cannot."""
    check_instance(where, "evaluator", evaluator)
    if not takes(evaluator, 3):
        raise ValueError(
            f"{where}: found {shown(evaluator)} as the evaluator, expected a function (env_state, metadata, key) -> "
            "(logits, value); wrap a network in one: tz.NetworkEvaluator(network, env.observe)."
        )


def takes(function: Any, num_arguments: int) -> bool:
    """Returns whether a function can be called with `num_arguments` arguments; True if that cannot be known."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*range(num_arguments))
    except ValueError:  # some built-in functions have no signature
        return True
    except TypeError:
        return False
    return True


def _kinds(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _is_object(kind: Any) -> bool:
    return isinstance(kind, type) and kind.__module__.startswith(("tz.", "optax.")) and not typing.get_origin(kind)
