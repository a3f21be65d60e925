"""Stops a training loop after a signal or an exception, without losing the newest state."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from tz._arguments import shown
from tz.learn.settings import LoopState
from tz.runs.checkpoints import Checkpoints


class StopTraining(Exception):  # noqa: N818, as StopIteration
    """Ends the training when it is raised in `before_epoch` of [`tz.train_loop`][]. The loop then returns its state."""


def changed_by(before_epoch: Callable[[LoopState], LoopState], state: LoopState) -> LoopState:
    """Calls `before_epoch` and returns the state that it returns.

    **Raises:** `ValueError` if it returns anything else.
    """
    changed = before_epoch(state)
    if not isinstance(changed, LoopState):
        raise ValueError(
            f"before_epoch: found {changed!r:.80}, expected the LoopState to continue with; return the state "
            "that it was given, changed or not, and raise tz.runs.StopTraining to end the training."
        )
    return changed


def last_epoch(where: str, num_epochs: int | None, state: LoopState) -> int | None:
    """Returns the number of epochs done at which the loop stops, None for no end.

    **Raises:** `ValueError` if `num_epochs` is below 0.
    """
    if num_epochs is None:
        return None
    if num_epochs < 0:
        raise ValueError(f"{where}: found num_epochs={num_epochs}, expected 0 or more; pass None for no end.")
    return int(state.epoch) + num_epochs


class Newest:
    """Holds the newest state of a loop, and delays interrupts while arrays of this state are donated to a call."""

    def __init__(self, state: LoopState):
        self.state = state
        self._is_interrupted = False

    def keep(self, state: LoopState) -> LoopState:
        """Replaces the previous state by a new one, and returns it. Raises `KeyboardInterrupt` if one was delayed."""
        self.state = state
        if self._is_interrupted:
            raise KeyboardInterrupt
        return state

    def interrupt(self) -> None:
        """Raises `KeyboardInterrupt` at once if the newest state is usable, and otherwise when the next one is kept."""
        self._is_interrupted = True
        if not any_deleted(self.state):
            raise KeyboardInterrupt


def any_deleted(tree: PyTree) -> bool:
    """Returns whether an array of the tree was donated to a call or deleted, and can no longer be read."""
    return any(x.is_deleted() for x in jax.tree.leaves(tree) if isinstance(x, jax.Array))


def check_calls(where: str, sinks: Any, checkpoints: Sequence[Any]) -> list[Any]:
    """Returns the sinks as a list.

    **Raises:** `ValueError` unless they are several functions, and each of the checkpoints is a `tz.Checkpoints`.
    """
    if callable(sinks) or not isinstance(sinks, Iterable) or not all(map(callable, sinks := list(sinks))):
        raise ValueError(
            f"{where}: found sinks={shown(sinks)}, expected functions that are called with the metrics of each epoch; "
            "write sinks=[tz.console_sink], a list even for one."
        )
    for one in checkpoints:
        if not isinstance(one, Checkpoints):
            raise ValueError(
                f"{where}: found checkpoints={shown(one)}, expected a tz.Checkpoints; write tz.Checkpoints(folder)."
            )
    return sinks


@contextlib.contextmanager
def keeping_state(newest: Newest, revived: Callable[[LoopState], tuple[LoopState, str]]) -> Iterator[None]:
    """Adds the newest state to every exception, as its attribute `state`, and a note that says so.

    **Arguments:** `revived`, a function that replaces the lost arrays of a state, and says what it replaced.
    """
    try:
        yield
    except BaseException as error:
        error.state, new = revived(newest.state)  # pyright: ignore[reportAttributeAccessIssue]
        error.add_note(
            f"The attribute `state` of this exception is the newest state, after {int(newest.state.epoch)} epochs and "
            f"part of the next.{new} tz.train_loop can continue from it; in a notebook it is sys.last_value.state."
        )
        raise


@contextlib.contextmanager
def noted_signals(newest: Newest, *, saves: bool) -> Iterator[list[str]]:
    """Notes signals to stop in a list, so that the loop can finish the epoch; a second Ctrl-C interrupts the loop.

    **Arguments:** `saves`, whether the state is saved after a signal. Only then is SIGTERM noted as well as SIGINT.

    **Returns:** the list, with the names of the signals that came in.
    """
    noted: list[str] = []

    def note(number, frame):
        if noted and number == signal.SIGINT:
            newest.interrupt()
        noted.append(signal.Signals(number).name)
        then = "saves" if saves else "returns the state"
        with contextlib.suppress(RuntimeError):  # the signal interrupted another print to stderr
            clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # clears the progress line
            print(
                f"{clear}{noted[-1]}: stops after this epoch and {then}; another Ctrl-C stops at once.", file=sys.stderr
            )

    if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals
        yield noted
        return
    numbers = (signal.SIGINT, signal.SIGTERM) if saves else (signal.SIGINT,)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python


def agreed(noted: list[str]) -> str:
    """Returns the reason to stop if any process received a signal, so that all stop together; otherwise empty."""
    if jax.process_count() > 1:
        anywhere = np.asarray(multihost_utils.process_allgather(np.bool_(len(noted) > 0)))
        return (noted or ["Stopped by another process"])[0] if anywhere.any() else ""
    return noted[0] if noted else ""
