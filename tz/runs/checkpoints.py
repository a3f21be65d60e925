"""Checkpoints: the whole state of a run in a folder, from which the run continues bit for bit."""

import contextlib
import itertools
import json
import math
import os
import pathlib
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from tz.learn.settings import LoopState
from tz.runs.checkpoint_format import (
    FORMAT,
    SavedRun,
    checksums,
    describe,
    differences,
    like,
    named,
    orbax,
    release,
    with_arrays,
)
from tz.runs.sinks import plain


class Checkpoints:
    """Saves the whole state of [`tz.train_loop`][] in the folder of a run, from time to time, while training continues.

    A checkpoint is either complete or absent, even if the process dies while it is written. Reading a checkpoint
    executes nothing in it, and a damaged checkpoint is refused.

    **Arguments:**

    - `folder`: the folder of the run. It is made if it is missing. The checkpoints are in `folder/checkpoints`. If the
        run has several processes, all of them must see the folder.
    - `every_epochs`: the number of epochs between two checkpoints; None to ignore it. The state after the last epoch of
        a loop is saved in any case.
    - `every_minutes`: the number of minutes since the previous checkpoint after which the state is saved at the end of
        the epoch; None to ignore it.
    - `keep`: the number of newest checkpoints to keep.
    - `best`: the name of a metric of a tester, such as `"random_score"`. A state with a new highest value is saved at
        once, and this checkpoint is kept in addition to the newest. If values are equal, the newer state is the best. A
        value of NaN, as of a test without a finished game, is never the best.
    - `on_save`: a function that is called with each state that is saved, for example to save the agent alone with
        [`tz.save_agent`][].
    - `resume`: True to continue the run in the folder, see `restore`. With False, a folder with a run is an error.

    **Raises:** `ValueError` for numbers out of range, a folder that cannot be written to, or a folder with a run if
    `resume` is False; `ImportError` without orbax-checkpoint.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        every_epochs: int | None = 10,
        every_minutes: float | None = None,
        keep: int = 3,
        best: str | None = None,
        on_save: Callable[[LoopState], None] | None = None,
        resume: bool = False,
    ):
        for name, count in {"every_epochs": every_epochs or 1, "keep": keep}.items():
            if isinstance(count, bool) or not isinstance(count, int | np.integer):
                raise ValueError(f"Checkpoints: found {name}={count!r}, expected an int; give a whole number.")
        for name, number in {"every_epochs": every_epochs, "every_minutes": every_minutes, "keep": keep}.items():
            if number is not None and not number > 0:
                raise ValueError(f"Checkpoints: found {name}={number}, expected more than 0; raise it.")
        self.folder = pathlib.Path(folder)
        self.every_epochs, self.every_minutes, self.best, self.on_save = every_epochs, every_minutes, best, on_save
        self.seconds = 0.0
        """The training time of the run in seconds, including the time before it was resumed."""
        self._ocp, self._saved_at = orbax(), time.monotonic()
        path = _writable((self.folder / "checkpoints").absolute())
        found = [int(entry.name) for entry in path.iterdir() if entry.name.isdecimal()]
        if found and not resume:  # before orbax clears away what another process may be writing
            raise ValueError(
                f"Checkpoints: found a run of {max(found)} epochs in {self.folder}, expected a folder without one; "
                f"continue the run with resume=True (on the command line: python -m tz resume {self.folder}), choose "
                "another folder, or delete this one yourself."
            )
        self._kept = _Kept(keep)
        options = self._ocp.CheckpointManagerOptions(preservation_policy=self._kept, cleanup_tmp_directories=True)
        self._manager = self._ocp.CheckpointManager(path, options=options, item_names=("state", "facts"))
        self._saved = SavedRun(self.folder, self._manager)
        for epoch in self.epochs if best is not None else ():
            with contextlib.suppress(ValueError):  # a damaged checkpoint cannot be the best
                name, score = self._saved.facts(epoch)[1]["best"]
                if name == best and score is not None and score >= self._kept.highest:
                    self._kept.best, self._kept.highest = epoch, score

    @property
    def epochs(self) -> list[int]:
        """The numbers of epochs after which there is a complete checkpoint, in order."""
        return self._saved.epochs

    def restore(self, state: LoopState) -> LoopState:
        """Reads the newest checkpoint and returns its state. If there is none, returns the given state.

        To continue from an earlier checkpoint or with other settings, start a new run with [`tz.fork`][].

        **Arguments:**

        - `state`: a state from [`tz.init_loop`][] with the settings of the run. It decides which arrays to read and
            on which devices to put them, which need not be those of the run. Its values are ignored, and its arrays are
            deleted.

        **Raises:** `ValueError` if the checkpoint is damaged, or has other arrays than the state.
        """
        if not self.epochs:
            return state
        epoch, facts = self._saved.facts()
        expected = named(state)
        if found := differences(facts["arrays"], {name: describe(x) for name, x in expected.items()}):
            raise ValueError(
                f"Checkpoints.restore: found a checkpoint of epoch {epoch} in {self.folder} with other arrays "
                f"({found}), expected the arrays of the state; resume with the settings that the run had, or start a "
                "new run from it with tz.fork."
            )
        templates = {name: like(x) for name, x in expected.items()}
        release(state)  # so that there are never two states in memory
        arrays = self._saved.read(epoch, facts, templates)
        self.seconds = facts["seconds"]
        return with_arrays(state, arrays)

    def check_follows(self, where: str, state: LoopState) -> None:
        """Raises `ValueError` if the folder has a later checkpoint than the state, which would be lost with time."""
        if (newest := max(self.epochs, default=0)) > int(state.epoch):
            raise ValueError(
                f"{where}: found a state of epoch {int(state.epoch)} and a checkpoint of epoch {newest} in "
                f"{self.folder}, expected a state that continues it; call checkpoints.restore(state), start a new run "
                "from an earlier checkpoint with tz.fork, or give tz.Checkpoints another folder."
            )

    def after_epoch(self, state: Callable[[], LoopState], metrics: Mapping[str, Any], *, tested: bool) -> None:
        """Saves the state if a checkpoint is due or the metric `best` is the highest so far.

        The training loop calls it after each epoch.

        **Arguments:**

        - `state`: a function that returns the state. It is called only if the state is saved.
        - `metrics`: the metrics of the epoch, including its `seconds`.
        - `tested`: whether there were tests in this epoch.

        **Raises:** `ValueError` if there were tests but no metric `best`, and earlier tests had none either; the state
        is saved first.
        """
        self.seconds += metrics["seconds"]
        score = None if self.best is None else plain(metrics.get(self.best))
        score = float(score) if isinstance(score, int | float) else None  # a tester may return anything
        minutes = (time.monotonic() - self._saved_at) / 60
        due = self.every_minutes is not None and minutes >= self.every_minutes
        if jax.process_count() > 1:  # clocks differ, but all processes must save together
            due = bool(multihost_utils.broadcast_one_to_all(np.bool_(due)))
        due |= self.every_epochs is not None and (metrics["epoch"] + 1) % self.every_epochs == 0
        if due or (score is not None and score >= self._kept.highest):  # a comparison with NaN is False
            self.save(state(), score=score)
        if tested and self.best is not None and score is None and self._kept.best is None:
            self.finish(state())
            raise ValueError(
                f"Checkpoints: found no number {self.best!r} among the metrics {', '.join(metrics)}, expected one to "
                "compare checkpoints by; choose another metric for best=, or add a tester that has it."
            )

    def save(self, state: LoopState, *, score: float | None = None) -> None:
        """Saves the state now. Files are written in the background; `finish` waits for them.

        **Arguments:**

        - `state`: the state to save.
        - `score`: the value of the metric `best`, if there is one.

        **Raises:** `OSError` if this checkpoint or the previous one cannot be written.
        """
        epoch, arrays = int(state.epoch), named(state)
        sums = jax.device_get(checksums(arrays))
        described = {name: [*describe(x), int(sums[name])] for name, x in arrays.items()}
        facts = {"format": FORMAT, "epoch": epoch, "seconds": self.seconds, "best": [self.best, score]}
        text = json.dumps(facts | {"arrays": described})
        items = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(arrays),
            facts=self._ocp.args.JsonSave({"text": text, "crc32": zlib.crc32(text.encode())}),
        )
        if score is not None and score >= self._kept.highest:
            self._kept.best, self._kept.highest = epoch, score
        try:
            self._manager.save(epoch, args=items, force=True)
        except Exception as error:
            raise self._not_written(error) from error
        if self.on_save is not None and jax.process_index() == 0:
            self.on_save(state)
        self._saved_at = time.monotonic()

    def finish(self, state: LoopState) -> None:
        """Saves the state unless it is saved already, and waits until all files are written.

        **Arguments:**

        - `state`: the state to save.

        **Raises:** `OSError` if a checkpoint cannot be written.
        """
        if int(state.epoch) not in self.epochs:
            self.save(state)
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._not_written(error) from error

    def save_aside(self, state: LoopState) -> pathlib.Path:
        """Saves `state` for inspection in a folder apart from the checkpoints, and returns the folder."""

        def folder_of(number: int) -> pathlib.Path:
            return self.folder / f"stopped_in_epoch_{int(state.epoch)}{f'_{number}' if number > 1 else ''}"

        number = next(n for n in itertools.count(1) if not folder_of(n).exists())  # others are of earlier failures
        if jax.process_count() > 1:  # the first process to make the folder must not send the others to another one
            number = int(multihost_utils.broadcast_one_to_all(np.int32(number)))
        folder = folder_of(number)
        Checkpoints(folder, resume=True).finish(state)
        return folder

    def _not_written(self, error: Exception) -> OSError:
        return OSError(
            f"Checkpoints: found an error while writing to {self.folder} ({str(error)[:500]}), expected a complete "
            "checkpoint; free some space, or choose another folder. The checkpoints of epochs "
            f"{self.epochs} are complete."
        )


class _Kept:
    """The policy that orbax asks which checkpoints to keep: the newest ones and the best one."""

    def __init__(self, newest: int):
        self.newest, self.highest = newest, -math.inf
        self.best: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context  # part of orbax's interface
        first = len(checkpoints) - self.newest
        return [index >= first or found.step == self.best for index, found in enumerate(checkpoints)]


def _writable(path: pathlib.Path) -> pathlib.Path:
    """Makes a folder if it is missing, and checks that files can be written to it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        # The name is random and has no process id: in containers that share the folder, process ids may be equal.
        with tempfile.TemporaryFile(dir=path, prefix=".writable_"):
            pass
    except OSError as error:
        raise ValueError(
            f"Checkpoints: found that {path} cannot be written to ({error}), expected a writable folder; choose "
            "another."
        ) from error
    return path
