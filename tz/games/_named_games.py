"""Games by name: the games of pgx, and games of the user's own modules."""

import functools
import importlib
import os
import sys

from tz._arguments import shown, takes
from tz.games.env import Env
from tz.games.pgx_games import from_pgx


def named_game(name: str) -> Env:
    """Returns a game of pgx, such as `othello`, or one of the user's own, such as `package.module:make_env`.

    `make_env()` must return a [`tz.Env`][]. The same name gives the same object each time, so programs that were
    compiled for it can be used again.

    **Raises:** `ValueError` if there is no such game.
    """
    return _own_game(name) if ":" in name else from_pgx(name)


@functools.cache
def _own_game(name: str) -> Env:
    module_name, _, function = name.partition(":")
    if os.getcwd() not in sys.path:  # `python -m` adds this folder, a console script does not
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (ImportError, TypeError, ValueError) as error:
        raise ValueError(
            f"env: found {name!r}, whose module {module_name!r} cannot be imported ({error}), expected "
            "package.module:make_env; start the command in the folder that contains the package."
        ) from error
    make = getattr(module, function, None)
    if not callable(make):
        raise ValueError(
            f"env: found no function {function!r} in the module {module_name!r}, expected one that returns a tz.Env; "
            "write package.module:make_env with its name."
        )
    if not takes(make, 0):
        raise ValueError(
            f"env: found {name!r}, which cannot be called without arguments, expected a function without any; write "
            "one that calls it with yours."
        )
    env = make()
    if not isinstance(env, Env):
        raise ValueError(f"env: found {name!r} to return {shown(env)}, expected a tz.Env; see tz.Env for its fields.")
    return env
