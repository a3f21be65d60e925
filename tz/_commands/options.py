"""Makes command-line options and their help from the fields of a dataclass: types, defaults and docstrings."""

import argparse
import ast
import dataclasses
import difflib
import functools
import inspect
import math
import pathlib
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

_INT64 = range(-(2**63), 2**63)


class Parser(argparse.ArgumentParser):
    """A parser that raises a `ValueError` of one line for an error, and suggests the option that was meant."""

    def __init__(self, command: str):
        super().__init__(prog=f"python -m tz {command}", add_help=False, allow_abbrev=False)
        self.add_argument("-h", "--help", action="store_true")

    def error(self, message: str) -> NoReturn:
        """Raises `ValueError`, instead of printing the usage and exiting."""
        raise ValueError(f"{message}; see {self.prog} --help.")

    def read(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Reads the arguments and returns the options that were given.

        An option that takes several values may be repeated; its values are joined.

        **Raises:** `ValueError` for an unknown option, a value that an option does not take, or another option that is
        given twice.
        """
        words = [_hyphens(word) for word in arguments]
        given = [word.partition("=")[0] for word in words]
        for action in self._actions:
            names = [name for name in given if name in action.option_strings]
            if len(names) > 1 and action.nargs != "+":
                self.error(f"found {' and '.join(names)}, expected this option once; leave out all but one")
        found, unknown = self.parse_known_args(words)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
            closest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1, cutoff=0.6)
            guess = f" (did you mean {closest[0]}?)" if closest else ""
            self.error(f"found {' '.join(unknown)}, expected options of {self.prog}{guess}")
        return vars(found)


def add_fields(parser: argparse.ArgumentParser, cls: type, leave_out: Sequence[str] = ()) -> None:
    """Adds an option for each field of a dataclass. Options that are not given are absent from the result."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name in leave_out:
            continue
        kinds = typing.get_args(hints[field.name]) if _is_union(hints[field.name]) else (hints[field.name],)
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": field.name}
        if bool in kinds:
            options["action"] = argparse.BooleanOptionalAction
        elif any(typing.get_origin(kind) is tuple for kind in kinds):
            options |= {"nargs": "+", "action": "extend"}
        else:
            options["type"] = reader(kinds)
        parser.add_argument(option_name(field.name), **options)


def option_name(field: str) -> str:
    """Returns the option of a field: `--num-games` for `num_games`."""
    return "--" + field.replace("_", "-")


@functools.cache
def explanations(cls: type) -> dict[str, str]:
    """Returns the docstring below each field of a class, as plain text without markup."""
    try:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except OSError:  # installed without its source
        return {}
    assert isinstance(body, ast.ClassDef)
    found, name = {}, None
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif name is not None and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found[name] = without_markup(str(node.value.value))
            name = None
    return found


def without_markup(text: str) -> str:
    """Removes links, backticks and line breaks from a docstring."""
    text = re.sub(r"\[`([^`]+)`\]\[.*?\]", r"\1", text)
    return " ".join(text.replace("`", "").split())


def help_lines(rows: Mapping[str, str]) -> str:
    """Lays out options and their help in two columns, as wide as the terminal allows."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    indent, lines = 28, []
    for name, text in rows.items():
        wrapped = textwrap.wrap(text, max(30, width - indent)) or [""]
        first = f"  {name:<{indent - 2}}"
        if len(first) > indent:
            lines.append(first.rstrip())
            first = " " * indent
        lines += [first + wrapped[0], *(" " * indent + line for line in wrapped[1:])]
    return "\n".join(line.rstrip() for line in lines)


def field_rows(values: Any, names: Sequence[str] | None = None, leave_out: Sequence[str] = ()) -> dict[str, str]:
    """Returns the help of the options of a dataclass, with the defaults that they have in `values`."""
    cls, found = type(values), {}
    hints, texts = typing.get_type_hints(cls), explanations(cls)
    for field in dataclasses.fields(cls):
        if field.name in leave_out or (names is not None and field.name not in names):
            continue
        value = getattr(values, field.name)
        choices = [str(x) for kind in _parts(hints[field.name]) for x in _choices(kind)]
        text = texts.get(field.name, "") + (f" One of {', '.join(choices)}." if choices else "")
        default = "" if value is None or value == () or isinstance(value, bool) else f" [{_shown(value)}]"
        found[option_name(field.name)] = text + default
    return {name: found[name] for name in map(option_name, names)} if names is not None else found


def as_option(name: str, value: Any) -> str:
    """Writes a setting as an option of the command line."""
    if isinstance(value, bool):
        return option_name(name) if value else option_name(name).replace("--", "--no-", 1)
    return f"{option_name(name)} {_shown(value)}"


def _shown(value: Any) -> str:
    """Writes a value as the command line takes it."""
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if value is None else str(value)


def reader(kinds: tuple[Any, ...]) -> Callable[[str], Any]:
    """Returns a function that reads a value of one of the types in `kinds`.

    It refuses whole numbers of more than 64 bits, since `jax.random.key` takes no larger seed, and numbers that are
    not finite. Without `jax_enable_x64`, only the lowest 32 bits of a seed count.
    """
    may_be_none, choices = types.NoneType in kinds, [x for kind in kinds for x in _choices(kind)]
    (kind, *_) = [kind for kind in kinds if kind is not types.NoneType]

    def read(text: str) -> Any:
        if may_be_none and text.lower() == "none":
            return None
        if choices:
            if text not in choices:
                raise argparse.ArgumentTypeError(f"found {text!r}, expected one of {', '.join(map(str, choices))}")
            return text
        if kind in (str, pathlib.Path):
            return kind(text)
        expected = "a whole number from -2**63 to 2**63 - 1" if kind is int else "a finite number"
        try:
            value = kind(text)
            if value in _INT64 if kind is int else math.isfinite(value):
                return value
        except ValueError:
            expected = "a whole number" if kind is int else "a number"
        more = " or none" if may_be_none else ""
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}{more}")

    return read


def _parts(hint: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the type itself."""
    return typing.get_args(hint) if _is_union(hint) else (hint,)


def _choices(kind: Any) -> tuple[Any, ...]:
    """Returns the values that a `Literal` allows; none for other types."""
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _hyphens(word: str) -> str:
    """Accepts underscores in the name of an option: `--num_games=3` becomes `--num-games=3`."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word
