"""Players that are not JAX: engines that speak GTP, and functions of Python. Their matches are played on the host."""

import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import PyTree

from tz._arguments import check_fields, shown, takes
from tz.games.env import Env
from tz.matches._gtp_process import words_of
from tz.matches.players import Player, check_is_player

GO_KOMI = 7.5  # of the Go games that pgx makes by name
_WHITE_BEGINS = ("chess", "gardner_chess")


class GtpEngine(eqx.Module):
    """A program that speaks GTP, the Go Text Protocol, as a player of matches and testers.

    `tz.play_match(env, agent, tz.matches.GtpEngine("gtp-rhino --level 1"), num_games=100, key=key)` is a match against
    one. It works for the games whose moves have names, see [`tz.games.move_label`][]: Go and Othello by the names
    that engines expect. The rules of tz decide: each move is looked up among the legal ones. A pass that is the only
    legal move is made without asking the engine, and an engine that passes by itself may refuse to be told of one.
    `resign` loses the game. An engine that ends, gives no answer in time or makes an illegal move spoils that game
    alone, see `failures` of [`tz.matches.MatchResult`][].

    **Fields:**

    - `command`: the program and its arguments, as in a shell.
    - `num_processes`: how many run side by side. Each plays its part of the games, one move here and one there. With as
        many processes as games, none is ever told a game anew, which matters to engines that keep what they thought.
    - `timeout`: seconds for one answer.
    - `setup`: GTP commands for a new process. None, the default, for `boardsize` and `komi` in Go, with pgx's komi of
        7.5, and for none in other games.

    **Raises:** `ValueError` if a number is out of its range. Whether there is such a program is found out when a match
    begins.
    """

    command: str = eqx.field(static=True)
    num_processes: int = eqx.field(static=True, default=2)
    timeout: float = eqx.field(static=True, default=60.0)
    setup: tuple[str, ...] | None = eqx.field(static=True, default=None)

    def __post_init__(self):
        check_fields(self)
        if not isinstance(self.command, str) or not self.command.strip():
            raise ValueError(
                f"GtpEngine: found command={shown(self.command)}, expected a program with its arguments; write a text "
                'such as "gnugo --mode gtp".'
            )
        if self.num_processes < 1:
            raise ValueError(f"GtpEngine: num_processes must be at least 1, found {self.num_processes}.")
        if not self.timeout > 0:
            raise ValueError(f"GtpEngine: timeout must be above 0 seconds, found {self.timeout}.")


class HostPlayer(eqx.Module):
    """A function of Python as a player of matches and testers: `state -> action`, called for one game at a time.

    The state is the game's, with NumPy's arrays, and the action is an int. A function that JAX can trace is far faster
    as a [`tz.Player`][]; this is for the others, such as a player that asks a program or a table. An illegal action
    spoils the game, as that of a [`tz.matches.GtpEngine`][]; an exception ends the match.
    """

    function: Callable[[PyTree], Any] = eqx.field(static=True)

    def __post_init__(self):
        if isinstance(self.function, Player | GtpEngine | HostPlayer) or not takes(self.function, 1):
            raise ValueError(
                f"HostPlayer: found {shown(self.function)}, expected a function state -> action; give a function of "
                "one argument."
            )


AnyPlayer = Player | GtpEngine | HostPlayer


def check_any_player(where: str, name: str, player: Any) -> None:
    """Raises `ValueError` for something else in the place of a player, be it JAX or not."""
    if not isinstance(player, GtpEngine | HostPlayer):
        check_is_player(where, name, player)


def check_engine(where: str, env: Env, player: Any) -> None:
    """Raises `ValueError` if an engine is not installed, or cannot be told the moves of this game."""
    if not isinstance(player, GtpEngine):
        return
    words_of(player.command)
    if env.label is None:
        raise ValueError(
            f"{where}: found an engine for {env.name}, whose moves have no names, expected a game with `label`; give "
            "the Env one."
        )
    if env.outcome is not None:
        raise ValueError(
            f"{where}: found an engine for {env.name}, a game with chance, expected one without; GTP has no dice."
        )


def name_of(env: Env, state: PyTree, action: Any) -> str:
    """The name of a legal move, as an engine is told of it."""
    assert env.label is not None
    return env.label(state, int(action))


def colours(env: Env) -> tuple[str, str]:
    """The letters of GTP for who moves first in the game and who moves second."""
    return ("w", "b") if env.name in _WHITE_BEGINS else ("b", "w")


def go_size(env: Env) -> int | None:
    """The size of the board in Go, None for another game."""
    found = re.fullmatch(r"go_(\d+)x\1", env.name)
    return None if found is None else int(found[1])


def setup_commands(engine: GtpEngine, env: Env) -> tuple[str, ...]:
    """What a new process of an engine is told before its first game."""
    if engine.setup is not None:
        return engine.setup
    size = go_size(env)
    return () if size is None else (f"boardsize {size}", f"komi {GO_KOMI}")


def legal_action(env: Env, found: Any, action_mask: np.ndarray) -> int:
    """What a function of Python returned, as the number of a legal action.

    **Raises:** `ValueError` if it is none.
    """
    is_int = isinstance(found, int | np.integer) or (hasattr(found, "dtype") and found.dtype.kind in "iu")
    action = int(found) if is_int and np.ndim(found) == 0 and not isinstance(found, bool) else -1
    if not (0 <= action < len(action_mask) and action_mask[action]):
        legal = np.flatnonzero(action_mask)
        raise ValueError(
            f"{env.name}: found {found!r:.80} as the action, expected one of the {len(legal)} legal ones, such as "
            f"{legal[0] if len(legal) else 'none'}"
        )
    return action
