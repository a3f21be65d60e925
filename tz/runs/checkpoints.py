"""Checkpoints: the whole state of a run in a folder, so that it goes on bit for bit wherever it was stopped."""

import contextlib
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
    """The folder of a run, in which [`tz.train_loop`][] saves its whole state from time to time, while it goes on.

    A checkpoint is there at once or not at all, whatever the moment at which the process dies. Reading one executes
    nothing that is in it, and what is damaged is refused.

    **Arguments:**

    - `folder`: made where it is missing; its checkpoints are in `folder/checkpoints`. Several processes need one that
        all of them see.
    - `every_epochs`, `every_minutes`: how often to save, whichever comes first; None for never. The state after the
        last epoch of a loop is saved anyway.
    - `keep`: how many of the newest to keep.
    - `best`: the name of a metric of a tester, such as `"random_score"`. The checkpoint with the highest is saved at
        once and kept as well; of equals, such as 1.0 again and again, the newest.
    - `on_save`: called with the state whenever it is saved; with [`tz.save_agent`][] in it, the agent alone is saved
        beside the whole.
    - `resume`: whether to go on with a run that is in the folder, see `restore`. Otherwise such a folder is refused.

    **Raises:** `ValueError` for numbers out of range, a folder that cannot be written to, or one with a run in it that
    is not to be resumed; `ImportError` without orbax-checkpoint.
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
        for name, number in {"every_epochs": every_epochs, "every_minutes": every_minutes, "keep": keep}.items():
            if number is not None and not number > 0:
                raise ValueError(f"Checkpoints: {name} must be more than 0, found {number}.")
        self.folder = pathlib.Path(folder)
        self.every_epochs, self.every_minutes, self.best, self.on_save = every_epochs, every_minutes, best, on_save
        self.seconds = 0.0
        """What the epochs of the run have taken, those before it was resumed included."""
        self._ocp, self._saved_at = orbax(), time.monotonic()
        path = _writable((self.folder / "checkpoints").absolute())
        found = [int(entry.name) for entry in path.iterdir() if entry.name.isdecimal()]
        if found and not resume:  # before orbax clears away what another process may be writing
            raise ValueError(
                f"Checkpoints: {self.folder} has a run of {max(found)} epochs in it. Go on with it by resume=True "
                f"(on the command line: python -m tz resume {self.folder}), choose another folder, or delete this one "
                "yourself."
            )
        self._kept = _Kept(keep)
        options = self._ocp.CheckpointManagerOptions(preservation_policy=self._kept, cleanup_tmp_directories=True)
        self._manager = self._ocp.CheckpointManager(path, options=options, item_names=("state", "facts"))
        self._saved = SavedRun(self.folder, self._manager)
        for epoch in self.epochs if best is not None else ():
            with contextlib.suppress(ValueError):  # a damaged one cannot be the best
                name, score = self._saved.facts(epoch)[1]["best"]
                if name == best and score is not None and score >= self._kept.highest:
                    self._kept.best, self._kept.highest = epoch, score

    @property
    def epochs(self) -> list[int]:
        """The numbers of epochs after which there is a complete checkpoint, in order."""
        return self._saved.epochs

    def restore(self, state: LoopState) -> LoopState:
        """The state of the newest checkpoint; where there is none, that given.

        **Arguments:** `state`, from [`tz.init_loop`][] with the settings of the run. Its values do not matter, only
        which arrays it has, and on which devices; these may be others than those of the run. Its arrays are donated.

        **Raises:** `ValueError` if the checkpoint is damaged, or has other arrays than the state. [`tz.fork`][] begins
        a new run from an earlier one, or with other settings.
        """
        if not self.epochs:
            return state
        epoch, facts = self._saved.facts()
        expected = named(state)
        if found := differences(facts["arrays"], {name: describe(x) for name, x in expected.items()}):
            raise ValueError(
                f"The checkpoint of epoch {epoch} in {self.folder} is of other settings: {found}. Resume with the "
                "settings that the run had, or begin another run from it with tz.fork."
            )
        templates = {name: like(x) for name, x in expected.items()}
        release(state)  # or there would be two states in memory
        arrays = self._saved.read(epoch, facts, templates)
        self.seconds = facts["seconds"]
        return with_arrays(state, arrays)

    def after_epoch(self, state: Callable[[], LoopState], metrics: Mapping[str, Any], *, tested: bool) -> None:
        """Saves the state if it is time to; called by the loop, which says whether there were tests.

        **Arguments:** `state`, which makes the state, and is called only if this is saved.

        **Raises:** `ValueError` if no test had the metric that is to be compared; the state is saved.
        """
        self.seconds += metrics["seconds"]
        score = None if self.best is None else plain(metrics.get(self.best))
        score = float(score) if isinstance(score, int | float) else None  # a tester may give anything
        minutes = (time.monotonic() - self._saved_at) / 60
        due = self.every_minutes is not None and minutes >= self.every_minutes
        if jax.process_count() > 1:  # their clocks differ
            due = bool(multihost_utils.broadcast_one_to_all(np.bool_(due)))
        due |= self.every_epochs is not None and (metrics["epoch"] + 1) % self.every_epochs == 0
        if due or (score is not None and score >= self._kept.highest):
            self.save(state(), score=score)
        if tested and self.best is not None and score is None:
            self.finish(state())
            raise ValueError(
                f"Checkpoints: found no metric {self.best!r} to find the best by, which is a number, only "
                f"{', '.join(metrics)}; name one of them, or add a tester that has it."
            )

    def save(self, state: LoopState, *, score: float | None = None) -> None:
        """Saves the state now. Files are written while training goes on; `finish` waits for them.

        **Raises:** `OSError` if this checkpoint, or the one before, could not be written.
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
        """Saves the state, unless it is saved already, and waits until all is written.

        **Raises:** `OSError` as `save`.
        """
        if int(state.epoch) not in self.epochs:
            self.save(state)
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._not_written(error) from error

    def save_aside(self, state: LoopState) -> pathlib.Path:
        """Saves a state that should be looked at, apart from the run, in a folder of its own, which is returned."""
        folder = self.folder / f"stopped_in_epoch_{int(state.epoch)}"
        Checkpoints(folder, resume=True).finish(state)
        return folder

    def _not_written(self, error: Exception) -> OSError:
        return OSError(
            f"A checkpoint could not be written to {self.folder}: {str(error)[:500]}. Make room, or choose another "
            f"folder. Those of epochs {self.epochs} are complete."
        )


class _Kept:
    """Which checkpoints are kept, as orbax asks it: the newest, and the best."""

    def __init__(self, newest: int):
        self.newest, self.highest = newest, -math.inf
        self.best: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        first = len(checkpoints) - self.newest
        return [index >= first or found.step == self.best for index, found in enumerate(checkpoints)]


def _writable(path: pathlib.Path) -> pathlib.Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Under a name of its own: processes in containers that share the folder may have one process id.
        with tempfile.TemporaryFile(dir=path, prefix=".writable_"):
            pass
    except OSError as error:
        raise ValueError(f"Checkpoints: {path} cannot be written to: {error}. Choose another folder.") from error
    return path
