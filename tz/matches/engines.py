"""Players that are not JAX: engines that speak GTP, and Python functions. Their matches are played on the host."""

import re
import threading
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from tz._arguments import check_fields, check_sequence, shown, takes
from tz.games.env import Env
from tz.games.pgx_games import GO_KOMI
from tz.matches._gtp_process import words_of
from tz.matches.players import Player, check_is_player

_WHITE_BEGINS = ("chess", "gardner_chess")  # elsewhere black begins, as in Go, for which GTP was made


class GtpEngine(eqx.Module):
    """Lets a program that speaks GTP, the Go Text Protocol, play in matches, in testers and in [`tz.play.Game`][].

    The game must name its moves, see [`tz.games.move_label`][]; Go and Othello use the names that engines expect. It
    must also begin with the position that the engine has after `clear_board`: do not use a game whose `init` begins
    elsewhere, as that of [`tz.random_starts`][] does.

    The game's rules decide: each answer of the engine is looked up among the legal moves. If a pass is the only legal
    move, it is made without asking the engine. An engine that skips players by itself may refuse this pass when it is
    told. An engine that answers `resign` loses the game. If an engine ends, gives no answer in time, or makes an
    illegal move, only that game is spoilt, see `failures` of [`tz.matches.MatchResult`][]. A process that fails three
    times without a move in between is not started again, and the rest of its games are spoilt as well.

    **Fields:**

    - `command`: the program and its arguments, as in a shell.
    - `num_processes`: the number of processes that run at the same time, at most one for each game. Each plays a fixed
        part of the games. A process with several games is told all moves of a game again whenever it switches to that
        game. With one process for each game this never happens, which helps engines that keep their search between
        moves.
    - `timeout`: the time in seconds for one answer.
    - `setup`: GTP commands for each new process. By default, `boardsize` and `komi` of the game in Go, and nothing in
        other games.

    **Raises:** `ValueError` if `command` is empty or a number is out of range. A program that is not installed is
    reported when a match begins.

    **Example:**

    ```python
    engine = tz.matches.GtpEngine("gtp-rhino --level 1")
    match = tz.play_match(env, agent, engine, num_games=100, key=key)
    ```
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
            raise ValueError(f"GtpEngine: found num_processes={self.num_processes}, expected at least 1; raise it.")
        is_number = isinstance(self.timeout, int | float) and not isinstance(self.timeout, bool)
        if not is_number or not 0 < self.timeout <= threading.TIMEOUT_MAX:
            raise ValueError(
                f"GtpEngine: found timeout={shown(self.timeout)}, expected a finite number of seconds, more than 0; "
                "for an engine without a limit, write a long time such as timeout=86400."
            )
        if self.setup is not None:
            check_sequence("GtpEngine", "setup", self.setup, str)
            if not all(isinstance(command, str) and "\n" not in command for command in self.setup):
                raise ValueError(
                    f"GtpEngine: found setup={shown(self.setup)}, expected one text for each command; write "
                    'setup=("boardsize 9", "komi 5.5").'
                )
            self.setup = tuple(self.setup)


class HostPlayer(eqx.Module):
    """Lets a Python function play in matches, in testers and in [`tz.play.Game`][].

    Use it for a function that JAX cannot trace, such as one that asks another program or looks moves up in a file. A
    function that JAX can trace is far faster as a [`tz.Player`][]. An illegal action spoils only its game, see
    `failures` of [`tz.matches.MatchResult`][]; an exception ends the match.

    **Fields:**

    - `function`: `state -> action`, called for one game at a time. The arrays of the environment's state are NumPy
        arrays, except for typed random keys, and the action is an int.

    **Raises:** `ValueError` if `function` cannot be called with one argument.
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
    """Raises `ValueError` unless the value is a player, on the device or on the host."""
    if not isinstance(player, GtpEngine | HostPlayer):
        check_is_player(where, name, player)


def check_engine(where: str, env: Env, player: Any) -> None:
    """Raises `ValueError` if a player is an engine that is not installed, or that cannot play this game."""
    if not isinstance(player, GtpEngine):
        return
    words_of(player.command)
    if env.label is None:
        raise ValueError(
            f"{where}: found an engine for {env.name}, whose moves have no names, expected a game with `label`; add "
            "it to the tz.Env."
        )
    if env.outcome is not None:
        raise ValueError(
            f"{where}: found an engine for {env.name}, a game with chance, expected one without, as GTP has no dice; "
            "play against a tz.Player or a tz.matches.HostPlayer."
        )


def check_one_process(where: str, player: AnyPlayer) -> None:
    """Raises `ValueError` if a player that is not JAX would play in a program of several processes."""
    if jax.process_count() > 1 and not isinstance(player, Player):
        raise ValueError(
            f"{where}: found a player that is not JAX and {jax.process_count()} processes, expected one process; "
            "play its matches in a program that has one process."
        )


def name_of(env: Env, state: PyTree, action: Any) -> str:
    """Returns the name of a legal move, as it is sent to engines."""
    assert env.label is not None
    return env.label(state, int(action))


def colours(env: Env) -> tuple[str, str]:
    """Returns the GTP letters of the player who moves first in the game and of the other player."""
    return ("w", "b") if env.name in _WHITE_BEGINS else ("b", "w")


def go_rules(env: Env) -> tuple[int, float] | None:
    """Returns the size of the board and the komi in Go, and None for other games."""
    found = re.fullmatch(r"go_(\d+)x\1(?:_komi_(.+))?", env.name)
    return None if found is None else (int(found[1]), float(found[2] or GO_KOMI))


def setup_commands(engine: GtpEngine, env: Env) -> tuple[str, ...]:
    """Returns the commands for a new process of an engine, before its first game."""
    if engine.setup is not None:
        return engine.setup
    rules = go_rules(env)
    return () if rules is None else (f"boardsize {rules[0]}", f"komi {rules[1]:g}")


def legal_action(env: Env, found: Any, action_mask: np.ndarray) -> int:
    """Converts the result of a Python function to the number of a legal action.

    **Raises:** `ValueError` if it is not a legal action. The caller adds the full stop to the message.
    """
    is_int = isinstance(found, int | np.integer) or (hasattr(found, "dtype") and found.dtype.kind in "iu")
    action = int(found) if is_int and np.ndim(found) == 0 and not isinstance(found, bool) else -1
    if not (0 <= action < len(action_mask) and action_mask[action]):
        legal = np.flatnonzero(action_mask)
        raise ValueError(
            f"{env.name}: found {found!r:.80} as the action, expected one of the {len(legal)} legal ones, such as "
            f"{legal[0] if len(legal) else 'none'}; return one of them"
        )
    return action
