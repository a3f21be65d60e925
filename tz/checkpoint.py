"""Checkpoints: the whole state of a run in a folder, so that it goes on bit for bit wherever it was stopped."""

import contextlib
import json
import math
import os
import pathlib
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jaxtyping import Array, PyTree, UInt32

from tz.agent import named_arrays
from tz.config import LoopState

_FORMAT = 1


class Checkpoints:
    """The folder of a run, in which [`tz.train_loop`][] saves its whole state from time to time, while it goes on.

    A checkpoint is there at once or not at all, whatever the moment at which the process dies. Reading one executes
    nothing that is in it, and what is damaged is refused.

    **Arguments:**

    - `folder`: made where it is missing; its checkpoints are in `folder/checkpoints`.
    - `every_epochs`, `every_minutes`: how often to save, whichever comes first; None for never. The state after the
        last epoch of a loop is saved anyway.
    - `keep`: how many of the newest to keep.
    - `best`: the name of a metric of a tester, such as `"random_score"`. The checkpoint with the highest is saved at
        once and kept as well.
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
        resume: bool = False,
    ):
        for name, number in {"every_epochs": every_epochs, "every_minutes": every_minutes, "keep": keep}.items():
            if number is not None and not number > 0:
                raise ValueError(f"Checkpoints: {name} must be more than 0, found {number}.")
        self.folder = pathlib.Path(folder)
        self.every_epochs, self.every_minutes, self.best = every_epochs, every_minutes, best
        self.seconds = 0.0
        """What the epochs of the run have taken, those before it was resumed included."""
        self._ocp, self._saved_at = _orbax(), time.monotonic()
        path = _writable((self.folder / "checkpoints").absolute())
        self._kept = _Kept(keep)
        options = self._ocp.CheckpointManagerOptions(preservation_policy=self._kept, cleanup_tmp_directories=True)
        self._manager = self._ocp.CheckpointManager(path, options=options, item_names=("state", "facts"))
        if self.epochs and not resume:
            raise ValueError(
                f"Checkpoints: {self.folder} has a run of {self.epochs[-1]} epochs in it. Go on with it by resume=True "
                "(on the command line --resume), choose another folder, or delete this one yourself."
            )
        for epoch in self.epochs if best is not None else ():
            with contextlib.suppress(ValueError):  # a damaged one cannot be the best
                name, score = self.facts(epoch)[1]["best"]
                if name == best and score is not None and score > self._kept.highest:
                    self._kept.best, self._kept.highest = epoch, score

    @property
    def epochs(self) -> list[int]:
        """The numbers of epochs after which there is a complete checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def restore(self, state: LoopState, *, epoch: int | None = None) -> LoopState:
        """The state of the newest checkpoint, or of that after `epoch` epochs; where there is none at all, that given.

        **Arguments:** `state`, from [`tz.init_loop`][] with the settings of the run. Its values do not matter, only
        which arrays it has, and on which devices; these may be others than those of the run. Its arrays are donated.

        **Raises:** `ValueError` if there is no such checkpoint, if it is damaged, or has other arrays than the state.
        """
        if epoch is None and not self.epochs:
            return state
        epoch, facts = self.facts(epoch)
        expected = _named(state)
        if found := differences(facts["arrays"], {name: _describe(x) for name, x in expected.items()}):
            raise ValueError(
                f"The checkpoint of epoch {epoch} in {self.folder} is of other settings: {found}. Resume with the "
                "settings that the run had, or begin another run from it with tz.fork."
            )
        like = {name: _like(x) for name, x in expected.items()}
        for _, x in named_arrays(state):
            if x.size > 0 and not x.is_deleted():
                x.delete()  # or there would be two states in memory
        arrays = self.read(epoch, facts, like)
        self.seconds = facts["seconds"]
        return with_arrays(state, arrays)

    def facts(self, epoch: int | None = None) -> tuple[int, dict[str, Any]]:
        """What a checkpoint, by default the newest, says of itself: its number, and its arrays by name.

        **Raises:** `ValueError` if there is no such checkpoint, or it is damaged.
        """
        if epoch is None and self.epochs:
            epoch = self.epochs[-1]
        if epoch is None or epoch not in self.epochs:
            raise ValueError(f"{self.folder} has no checkpoint of epoch {epoch}, only of {self.epochs or 'none'}.")
        try:
            sealed = self._restore(epoch, facts=self._ocp.args.JsonRestore())["facts"]
            if zlib.crc32(sealed["text"].encode()) != sealed["crc32"]:
                raise ValueError("the checksum of its description is wrong")
            facts = json.loads(sealed["text"])
            version, facts["epoch"], facts["seconds"] = facts["format"], int(facts["epoch"]), float(facts["seconds"])
            described = {name: (list(shape), str(dtype), int(x)) for name, (shape, dtype, x) in facts["arrays"].items()}
            _, _ = facts["best"]
        except Exception as error:  # whatever orbax meets in a damaged file
            raise self._damaged(epoch, error) from error
        if version != _FORMAT:
            raise ValueError(
                f"The checkpoint of epoch {epoch} in {self.folder} is of format {version}, but this version of tz "
                f"reads {_FORMAT}. Update tz."
            )
        if facts["epoch"] != epoch:
            raise self._damaged(epoch, f"it is that of epoch {facts['epoch']}")
        return epoch, facts | {"arrays": described}

    def read(self, epoch: int, facts: Mapping[str, Any], like: dict[str, Any]) -> dict[str, Array]:
        """The arrays of a checkpoint by name, with shapes, dtypes and places as `like` says.

        **Raises:** `ValueError` if the checkpoint is damaged.
        """
        try:
            arrays = self._restore(epoch, state=self._ocp.args.StandardRestore(like))["state"]
            arrays = {name: jnp.asarray(x) for name, x in arrays.items()}
            sums = jax.device_get(_checksums(arrays))
        except Exception as error:
            raise self._damaged(epoch, error) from error
        wrong = [name for name, (_, _, checksum) in facts["arrays"].items() if int(sums[name]) != checksum]
        if wrong:
            raise self._damaged(epoch, f"the checksum of {wrong[0]} is wrong")
        return arrays

    def after_epoch(self, state: LoopState, metrics: Mapping[str, int | float], *, tested: bool) -> None:
        """Saves the state if it is time to; called by the loop, which says whether there were tests.

        **Raises:** `ValueError` if no test had the metric that is to be compared; the state is saved.
        """
        self.seconds += metrics["seconds"]
        score = None if self.best is None else metrics.get(self.best)
        minutes = (time.monotonic() - self._saved_at) / 60
        due = self.every_minutes is not None and minutes >= self.every_minutes
        if jax.process_count() > 1:  # their clocks differ
            due = bool(multihost_utils.broadcast_one_to_all(np.bool_(due)))
        due |= self.every_epochs is not None and int(state.epoch) % self.every_epochs == 0
        if due or (score is not None and score > self._kept.highest):
            self.save(state, score=score)
        if tested and self.best is not None and score is None:
            self.finish(state)
            raise ValueError(
                f"Checkpoints: no metric {self.best!r} to find the best by, only {', '.join(metrics)}. Name one of "
                "them, or add a tester that has it."
            )

    def save(self, state: LoopState, *, score: float | None = None) -> None:
        """Saves the state now. Files are written while training goes on; `wait` waits for them.

        **Raises:** `OSError` if this checkpoint, or the one before, could not be written.
        """
        epoch, arrays = int(state.epoch), _named(state)
        sums = jax.device_get(_checksums(arrays))
        described = {name: [*_describe(x), int(sums[name])] for name, x in arrays.items()}
        facts = {"format": _FORMAT, "epoch": epoch, "seconds": self.seconds, "best": [self.best, score]}
        text = json.dumps(facts | {"arrays": described})
        items = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(arrays),
            facts=self._ocp.args.JsonSave({"text": text, "crc32": zlib.crc32(text.encode())}),
        )
        if score is not None and score > self._kept.highest:
            self._kept.best, self._kept.highest = epoch, score
        try:
            self._manager.save(epoch, args=items, force=True)
        except Exception as error:
            raise self._not_written(error) from error
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

    def _restore(self, epoch: int, **items: Any) -> Any:
        return self._manager.restore(epoch, args=self._ocp.args.Composite(**items))

    def _damaged(self, epoch: int, reason: object) -> ValueError:
        others = [other for other in self.epochs if other != epoch]
        return ValueError(
            f"The checkpoint of epoch {epoch} in {self.folder} is damaged: {str(reason)[:500]}. "
            + (f"Others there are of {others}: restore one of them with epoch=." if others else "It is the only one.")
        )

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


def with_arrays(state: PyTree, arrays: Mapping[str, Array]) -> PyTree:
    """The state with other arrays, by their names; keys are given by their data."""

    def replaced(path, x):
        if not eqx.is_array(x) or x.size == 0:
            return x
        new = arrays[jax.tree_util.keystr(path)]
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.wrap_key_data(new, impl=jax.random.key_impl(x)) if is_key else new

    return jax.tree_util.tree_map_with_path(replaced, state)


def differences(found: Mapping[str, Any], expected: Mapping[str, Any], most: int = 5) -> str:
    """Which arrays a checkpoint has otherwise than they are expected, in words; empty if none."""

    def words(described) -> str:
        return "nothing" if described is None else f"{described[1]}{described[0]}"

    names = [name for name in {**found, **expected} if _shape(found, name) != _shape(expected, name)]
    lines = [f"{name} has {words(found.get(name))}, expected {words(expected.get(name))}" for name in names[:most]]
    return "; ".join(lines) + (f"; and {len(names) - most} more" if len(names) > most else "")


def _shape(arrays: Mapping[str, Any], name: str) -> list[Any] | None:
    return list(arrays[name][:2]) if name in arrays else None


def _like(x: Array) -> Any:
    """What orbax is to make: an array of the same kind, so that nothing that was compiled is compiled again."""
    if x.committed:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    return np.broadcast_to(np.zeros((), x.dtype), x.shape)  # takes no memory


def _describe(x: Any) -> list[Any]:
    return [list(x.shape), str(x.dtype)]


def _named(state: LoopState) -> dict[str, Array]:
    """The arrays of a state by name, but the empty ones; keys as their data.

    **Raises:** `ValueError` for a number in the state of a tester, which would not be saved.
    """
    for path, x in jax.tree_util.tree_flatten_with_path(state.testers)[0]:
        if isinstance(x, bool | int | float | complex | np.ndarray | np.generic):
            raise ValueError(
                f"The testers' state has {x!r:.80} at {jax.tree_util.keystr(path)}, which is no JAX array and would be "
                "lost when a run is resumed. Keep jnp.asarray of it."
            )

    def data(x):
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return {name: data(x) for name, x in named_arrays(state) if x.size > 0}


@jax.jit
def _checksums(arrays: dict[str, Array]) -> dict[str, UInt32[Array, ""]]:
    """A sum of the bits of each array, of words weighted by odd numbers that tell their places: one changed bit or two
    that changed places alter it. Exact, and the same however the array is split over devices."""

    def checksum(x):
        x = x.astype(jnp.uint8) if x.dtype == bool else x
        words = lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32))
        weights, stride = jnp.uint32(1), 2
        for axis in reversed(range(words.ndim)):
            weights += jnp.uint32(stride % 2**32) * lax.broadcasted_iota(jnp.uint32, words.shape, axis)
            stride *= words.shape[axis]
        return jnp.sum(words.astype(jnp.uint32) * weights, dtype=jnp.uint32)

    return {name: checksum(x) for name, x in arrays.items()}


def _writable(path: pathlib.Path) -> pathlib.Path:
    probe = path / f".writable_{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"Checkpoints: {path} cannot be written to: {error}. Choose another folder.") from error
    return path


def _orbax() -> Any:
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError("Checkpoints need orbax-checkpoint: pip install 'tz[train]'") from error
    return orbax.checkpoint
