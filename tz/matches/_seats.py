"""Asks the players of a match on the host for moves: a Python function, or the processes of an engine."""

import concurrent.futures
from typing import NamedTuple

import numpy as np
from jaxtyping import PyTree

from tz.games.env import Env
from tz.games.names import find_move
from tz.matches._gtp_process import EngineError, GtpProcess, RefusedError
from tz.matches.engines import GtpEngine, HostPlayer, legal_action, name_of, setup_commands

_PASS = "pass"
_FAILURES_IN_A_ROW = 3  # after this many failures without a move in between, a process is not started again

Move = tuple[str, str]
"""The colour and the name of a move, as GTP commands have them."""


class Question(NamedTuple):
    """Asks for a move in one game of a match.

    `game` is the number of the game, `line` has the moves from its beginning, and `colour` is the GTP letter of the
    player to move. In a match without engines, `line` and `colour` are empty.
    """

    game: int
    state: PyTree
    action_mask: np.ndarray
    line: list[Move]
    colour: str


class Answer(NamedTuple):
    """Answers a question: by an `action`, by the reason of a `failure`, which spoils the game, or by resigning."""

    action: int = -1
    failure: str | None = None
    resigns: bool = False


class FunctionSeat:
    """Asks a Python function for one game after another."""

    def __init__(self, env: Env, player: HostPlayer):
        self.env, self.function = env, player.function

    def answer(self, questions: list[Question]) -> list[Answer]:
        """Returns an answer to each question."""
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer:
        """Calls the function. An exception in it ends the match, since errors in Python code should be seen at once."""
        found = self.function(question.state)
        try:
            return Answer(legal_action(self.env, found, question.action_mask))
        except ValueError as error:
            name = getattr(self.function, "__name__", type(self.function).__name__)
            return Answer(failure=f"the function {name}: {error}.")

    def close(self) -> None:
        """Does nothing, as a function has nothing to close."""


class EngineSeat:
    """Asks the processes of an engine, each of which plays its own games."""

    def __init__(self, env: Env, engine: GtpEngine, num_games: int):
        num_processes = min(engine.num_processes, num_games)
        self._slots = [EngineSlot(env, engine) for _ in range(num_processes)]
        self._threads = concurrent.futures.ThreadPoolExecutor(num_processes, "tz-engine")

    def answer(self, questions: list[Question]) -> list[Answer]:
        """Returns an answer to each question. The processes think at the same time, each in a thread."""
        shares = [[q for q in questions if q.game % len(self._slots) == i] for i in range(len(self._slots))]
        parts = self._threads.map(EngineSlot.answers, self._slots, shares)
        found = {q.game: a for share, part in zip(shares, parts, strict=True) for q, a in zip(share, part, strict=True)}
        return [found[question.game] for question in questions]

    def close(self) -> None:
        """Ends all processes, even while they think, as after Ctrl-C."""
        for slot in self._slots:
            slot.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for slot in self._slots:
            slot.close()


class EngineSlot:
    """Keeps one process of an engine, and the moves that were made on its board.

    The process starts at its first question, and again at the next question after a failure. `told` is None if the
    board of the engine is not known.
    """

    def __init__(self, env: Env, engine: GtpEngine):
        self.env, self.engine = env, engine
        self.process: GtpProcess | None = None
        self.told: list[Move] | None = None
        self.failures: list[str] = []  # since the last move
        self._is_busy = self._is_stopped = False

    def close(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.close()
        self.process, self.told = None, None

    def answers(self, questions: list[Question]) -> list[Answer]:
        """Returns an answer to each question, one after another."""
        self._is_busy = True
        found = [self._answer(question) for question in questions]
        self._is_busy = False
        return found

    def stop(self) -> None:
        """Makes `answers` return soon, in whatever thread it runs: no question is asked any more."""
        self._is_stopped, process = True, self.process
        if self._is_busy and process is not None:
            process.kill()

    def _answer(self, question: Question) -> Answer:
        """Answers a question, and turns the errors of the engine into failures."""
        if self._is_stopped:
            return Answer(failure="the match was stopped")
        legal = np.flatnonzero(question.action_mask).tolist()
        if len(legal) == 1 and self._name(question, legal[0]).lower() == _PASS:
            return Answer(legal[0])  # forced; many engines skip such a player by themselves
        if len(self.failures) >= _FAILURES_IN_A_ROW:
            return Answer(failure=f"not asked any more, after {_FAILURES_IN_A_ROW} failures: {self.failures[-1]}")
        try:
            answer = self._ask(question)
        except EngineError as error:
            self.close()
            self.failures.append(str(error))
            return Answer(failure=str(error))
        if answer.failure is None:
            self.failures = []
        return answer

    def _ask(self, question: Question) -> Answer:
        """Starts the process if there is none, tells it the position, and asks it for a move.

        **Raises:** `EngineError` if the process has to be started again.
        """
        if self.process is None:
            self.process = GtpProcess(self.engine.command, self.engine.timeout)
            if self._is_stopped:  # while the process was started
                raise EngineError("the match was stopped")
            for command in setup_commands(self.engine, self.env):
                self._must(command)
        process = self.process
        self._tell(question)
        try:
            text = process.ask(f"genmove {question.colour}")
        except RefusedError as error:
            self.told = None
            return Answer(failure=f"{self._who()}: it refused to move: {error}; {process.last_words()}")
        if text.lower() == "resign":
            self.told = None
            return Answer(resigns=True)
        try:
            action = find_move(self.env, question.state, question.action_mask, text)
        except ValueError as error:
            self.told = None
            return Answer(failure=f"{self._who()}: {error} ({process.last_words()})")
        self.told = [*question.line, (question.colour, self._name(question, action))]
        return Answer(action)

    def _tell(self, question: Question) -> None:
        """Brings the engine's board to the position: by the moves that are new to it, or else from an empty board."""
        assert self.process is not None
        line = question.line
        if self.told is None or self.told != line[: len(self.told)]:
            self._must("clear_board")
            self.told = []
        for colour, name in line[len(self.told) :]:
            try:
                self.process.ask(f"play {colour} {name}")
            except RefusedError as error:
                if name.lower() != _PASS:  # an engine that skips players by itself may refuse a forced pass
                    self.told = None
                    raise EngineError(
                        f"{self._who()}: it refused the move {name}, which is legal in {self.env.name}: {error}; "
                        f"{self.process.last_words()}"
                    ) from error
        self.told = line

    def _must(self, command: str) -> None:
        """Sends a command that the engine may not refuse.

        **Raises:** `EngineError` if it does.
        """
        assert self.process is not None
        try:
            self.process.ask(command)
        except RefusedError as error:
            raise EngineError(f"{self._who()}: it refused {command!r}: {error}; {self.process.last_words()}") from error

    def _who(self) -> str:
        """Returns the name of the engine in messages."""
        return self.engine.command

    def _name(self, question: Question, action: int) -> str:
        """Returns the name of a move in the position of a question."""
        return name_of(self.env, question.state, action)
