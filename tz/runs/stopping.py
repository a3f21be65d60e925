"""How a training loop is stopped, by a signal or an exception, and the state that comes out of it alive."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from tz.learn.settings import LoopState


class StopTraining(Exception):  # noqa: N818, as StopIteration
    """Raised in the `before_epoch` of [`tz.train_loop`][] to end the training as if that had been the last epoch."""


def changed_by(before_epoch: Callable[[LoopState], LoopState], state: LoopState) -> LoopState:
    """The state that `before_epoch` returns.

    **Raises:** `ValueError` if it returns anything else.
    """
    changed = before_epoch(state)
    if not isinstance(changed, LoopState):
        raise ValueError(
            f"before_epoch: found {changed!r:.80}, expected the LoopState to go on with; return the state "
            "that it was given, changed or not, and raise tz.runs.StopTraining to end the training."
        )
    return changed


def last_epoch(where: str, num_epochs: int | None, state: LoopState) -> int | None:
    """The epoch to stop before, None for no end.

    **Raises:** `ValueError` for a number of epochs below 0.
    """
    if num_epochs is None:
        return None
    if num_epochs < 0:
        raise ValueError(f"{where}: num_epochs: found {num_epochs}, expected 0 or more; pass None for no end.")
    return int(state.epoch) + num_epochs


class Newest:
    """The newest state of a loop. While a call has taken some of its arrays, the loop cannot be interrupted."""

    def __init__(self, state: LoopState):
        self.state = state
        self._is_interrupted = False

    def keep(self, state: LoopState) -> LoopState:
        """Takes a state in the place of the one before, and returns it."""
        self.state = state
        if self._is_interrupted:
            raise KeyboardInterrupt
        return state

    def interrupt(self) -> None:
        """Raises `KeyboardInterrupt`, at once if the newest state is alive, else as soon as there is another."""
        self._is_interrupted = True
        if not any_deleted(self.state):
            raise KeyboardInterrupt


def any_deleted(tree: PyTree) -> bool:
    """Whether a call has taken an array of the tree, so that it cannot be read any more."""
    return any(x.is_deleted() for x in jax.tree.leaves(tree) if eqx.is_array(x))


@contextlib.contextmanager
def keeping_state(newest: Newest, revived: Callable[[LoopState], tuple[LoopState, str]]) -> Iterator[None]:
    """Gives every exception an attribute `state`, the newest state, and a note that says so.

    **Arguments:** `revived`, which makes a living state of one that lost arrays, and says what is new in it.
    """
    try:
        yield
    except BaseException as error:
        error.state, new = revived(newest.state)  # pyright: ignore[reportAttributeAccessIssue]
        error.add_note(
            f"This exception has the newest state as `state`, after {int(newest.state.epoch)} epochs and what was done "
            f"of the next.{new} tz.train_loop can go on from it; in a notebook it is sys.last_value.state."
        )
        raise


@contextlib.contextmanager
def noted_signals(newest: Newest, *, saves: bool) -> Iterator[list[str]]:
    """The names of the signals to stop that came in, which let the epoch finish; another Ctrl-C interrupts the loop.

    **Arguments:** `saves`, whether the state is saved then. Only in this case SIGTERM is such a signal.
    """
    noted: list[str] = []

    def note(number, frame):
        if noted and number == signal.SIGINT:
            newest.interrupt()
        noted.append(signal.Signals(number).name)
        then = "saves" if saves else "returns the state"
        with contextlib.suppress(RuntimeError):  # it interrupted another print to stderr
            clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # what is left of a line that is rewritten
            print(
                f"{clear}{noted[-1]}: stops after this epoch and {then}; another Ctrl-C stops at once.", file=sys.stderr
            )

    if threading.current_thread() is not threading.main_thread():  # others cannot handle signals
        yield noted
        return
    numbers = (signal.SIGINT, signal.SIGTERM) if saves else (signal.SIGINT,)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python


def agreed(noted: list[str]) -> str:
    """The signal that came in, in whichever process; empty for none."""
    if jax.process_count() > 1:
        anywhere = np.asarray(multihost_utils.process_allgather(np.bool_(len(noted) > 0)))
        return (noted or ["Stopped by another process"])[0] if anywhere.any() else ""
    return noted[0] if noted else ""
