"""Games by their names: those of pgx, and those that a module of the user makes."""

import functools
import importlib
import os
import sys

from tz._arguments import shown
from tz.games.env import Env
from tz.games.pgx_games import from_pgx


def named_game(name: str) -> Env:
    """A game of pgx, or of the user's own: `package.module:make_env`, where `make_env()` returns a [`tz.Env`][].

    The same name gives the same object each time, so that what is compiled for it is there the next time.

    **Raises:** `ValueError` if there is no such game.
    """
    return _own_game(name) if ":" in name else from_pgx(name)


@functools.cache
def _own_game(name: str) -> Env:
    module_name, _, function = name.partition(":")
    if os.getcwd() not in sys.path:  # as `python -m` has it, and a console script has not
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"env: found {name!r}, whose module {module_name!r} cannot be imported ({error}); expected "
            "package.module:make_env, seen from the folder in which the command is given."
        ) from error
    make = getattr(module, function, None)
    if not callable(make):
        raise ValueError(
            f"env: found no function {function!r} in the module {module_name!r}, expected one that returns a tz.Env; "
            "write package.module:make_env with its name."
        )
    env = make()
    if not isinstance(env, Env):
        raise ValueError(f"env: found {name!r} to return {shown(env)}, expected a tz.Env; see tz.Env for its fields.")
    return env
