"""What is in a folder of checkpoints: the arrays of a state by name, each with a checksum."""

import json
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, PyTree, UInt32

from tz._arrays import data_of, named_arrays, with_data
from tz.learn.settings import LoopState

FORMAT = 1
_RENAMED: dict[str, str] = {".games.episode_steps": ".games.episode_moves"}  # arrays of checkpoints of earlier versions
_COPIED = {
    ".games.search.tree.state": ".games.env_state",
    ".games.search.metadata": ".games.metadata",
}  # which had none


_RETURNS, _REWARDS = ".games.episode_return", ".games.search.metadata.rewards"


class SavedRun:
    """The checkpoints in the folder of a run, to be read.

    **Arguments:** `folder`, with the run's `checkpoints` in it; `manager`, orbax's, where one writes to the folder.

    **Raises:** `ValueError` if there is no such folder; `ImportError` without orbax-checkpoint.
    """

    def __init__(self, folder: str | os.PathLike, manager: Any = None):
        self.folder, self._ocp = pathlib.Path(folder), orbax()
        path = (self.folder / "checkpoints").absolute()
        if manager is None:
            if not path.is_dir():
                raise ValueError(f"{self.folder} has no run in it: there is no {path}.")
            options = self._ocp.CheckpointManagerOptions(read_only=True, create=False, save_interval_steps=0)
            manager = self._ocp.CheckpointManager(path, options=options, item_names=("state", "facts"))
        self._manager = manager

    @property
    def epochs(self) -> list[int]:
        """The numbers of epochs after which there is a complete checkpoint, in order."""
        return sorted(self._manager.all_steps())

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
            stored = {new: old for old, new in _RENAMED.items() if old in described}
            described = {_now(name): x for name, x in described.items()}
            if _RETURNS not in described and _REWARDS in described:  # of an earlier version, which did not count them
                described[_RETURNS], stored[_RETURNS] = (described[_REWARDS][0], "float32", 0), ""
            copied = _copied(described)
            described |= {new: (_first(old, described[old][0]), *described[old][1:]) for new, old in copied.items()}
            _, _ = facts["best"]
        except Exception as error:  # whatever orbax meets in a damaged file
            raise self._damaged(epoch, error) from error
        if version != FORMAT:
            raise ValueError(
                f"The checkpoint of epoch {epoch} in {self.folder} is of format {version}, but this version of tz "
                f"reads {FORMAT}. Update tz."
            )
        if facts["epoch"] != epoch:
            raise self._damaged(epoch, f"it is that of epoch {facts['epoch']}")
        return epoch, facts | {"arrays": described, "stored": stored, "copied": copied}

    def read(self, epoch: int, facts: Mapping[str, Any], templates: dict[str, Any]) -> dict[str, Array]:
        """The arrays of a checkpoint by name, with shapes, dtypes and places of the templates, see `like`.

        The returns so far of episodes in progress are zeros where the checkpoint is of a version that did not count
        them; no other array depends on these.

        **Raises:** `ValueError` if the checkpoint is damaged.
        """
        stored, copied = facts["stored"], facts["copied"]  # under which name, where that is another; none if not there
        missing = {name: _zeros(x) for name, x in templates.items() if stored.get(name) == ""}
        try:
            there = {name: x for name, x in templates.items() if name not in missing and name not in copied}
            templates = {stored.get(name, name): x for name, x in there.items()}
            arrays = self._restore(epoch, state=self._ocp.args.StandardRestore(templates))["state"]
            arrays = missing | {_now(name): jnp.asarray(x) for name, x in arrays.items()}
            sums = jax.device_get(checksums(arrays))
        except Exception as error:
            raise self._damaged(epoch, error) from error
        own = {name: checksum for name, (_, _, checksum) in facts["arrays"].items() if name not in copied}
        wrong = [name for name, checksum in own.items() if int(sums[name]) != checksum]
        if wrong:
            raise self._damaged(epoch, f"the checksum of {wrong[0]} is wrong")
        return arrays | {
            new: (arrays[old][:, 0] if _is_tree(old) else arrays[old].copy()) for new, old in copied.items()
        }

    def _restore(self, epoch: int, **items: Any) -> Any:
        return self._manager.restore(epoch, args=self._ocp.args.Composite(**items))

    def _damaged(self, epoch: int, reason: object) -> ValueError:
        others = [other for other in self.epochs if other != epoch]
        return ValueError(
            f"The checkpoint of epoch {epoch} in {self.folder} is damaged: {str(reason)[:500]}. "
            + (f"Begin a run from another with tz.fork, of {others}." if others else "It is the only one.")
        )


def _now(name: str) -> str:
    """The name of an array in this version of tz."""
    return _RENAMED.get(name, name)


def _copied(described: Mapping[str, Any]) -> dict[str, str]:
    """The arrays that a checkpoint lacks because an earlier version kept positions at the roots of trees alone, each
    with the array that it is copied from."""
    if any(name.startswith(".games.metadata") for name in described):
        return {}
    pairs = [(old, new, name) for name in described for old, new in _COPIED.items() if name.startswith(old)]
    return {new + name.removeprefix(old): name for old, new, name in pairs}


def _is_tree(name: str) -> bool:
    return name.startswith(".games.search.tree")


def _first(name: str, shape: list[int]) -> list[int]:
    """The shape of what is copied from an array: of a tree, the root's."""
    return [*shape[:1], *shape[2:]] if _is_tree(name) else shape


def with_arrays(state: PyTree, arrays: Mapping[str, Array]) -> PyTree:
    """The state with other arrays, by their names; keys are given by their data. What is not named stays."""

    def replaced(path, x):
        new = arrays.get(jax.tree_util.keystr(path))
        return x if new is None else with_data(x, new)

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


def like(x: Array) -> Any:
    """What orbax is to make: an array of the same kind, so that nothing that was compiled is compiled again."""
    if x.committed:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    return np.broadcast_to(np.zeros((), x.dtype), x.shape)  # takes no memory


def _zeros(template: Any) -> Array:
    """Zeros of the shape, dtype and place of a template that `like` made."""
    return jnp.zeros(template.shape, template.dtype, device=getattr(template, "sharding", None))


def release(state: LoopState) -> None:
    """Gives up the memory of a state, of which only the shapes are needed any more."""
    for _, x in named_arrays(state):
        if x.size > 0 and not x.is_deleted():
            x.delete()


def describe(x: Any) -> list[Any]:
    """The shape and the dtype of an array."""
    return [list(x.shape), str(x.dtype)]


def named(state: LoopState) -> dict[str, Array]:
    """The arrays of a state by name, but the empty ones; keys as their data.

    **Raises:** `ValueError` for a number in the state of a tester, which would not be saved.
    """
    for path, x in jax.tree_util.tree_flatten_with_path(state.testers)[0]:
        if isinstance(x, bool | int | float | complex | np.ndarray | np.generic):
            raise ValueError(
                f"The testers' state has {x!r:.80} at {jax.tree_util.keystr(path)}, which is no JAX array and would be "
                "lost when a run is resumed. Keep jnp.asarray of it."
            )

    return {name: data_of(x) for name, x in named_arrays(state) if x.size > 0}


@jax.jit
def checksums(arrays: dict[str, Array]) -> dict[str, UInt32[Array, ""]]:
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


def orbax() -> Any:
    """The package that reads and writes checkpoints.

    **Raises:** `ImportError` where it is not installed.
    """
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError("Checkpoints need orbax-checkpoint: pip install 'tz[train]'") from error
    return orbax.checkpoint
