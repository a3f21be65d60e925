"""The format of checkpoints: the arrays of a state by name, each with a checksum."""

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
# Arrays that had other names in earlier versions of tz.
_RENAMED: dict[str, str] = {".games.episode_steps": ".games.episode_moves"}
# Arrays that earlier versions did not save, by the prefixes of the arrays that they are copied from.
_COPIED = {
    ".games.search.tree.state": ".games.env_state",
    ".games.search.metadata": ".games.metadata",
}
_RETURNS, _REWARDS = ".games.episode_return", ".games.search.metadata.rewards"


class SavedRun:
    """Reads the checkpoints in the folder of a run.

    **Arguments:**

    - `folder`: the folder of the run, in which there is a folder `checkpoints`.
    - `manager`: the checkpoint manager of orbax, if one writes to the folder already.

    **Raises:** `ValueError` if there is no such folder; `ImportError` without orbax-checkpoint.
    """

    def __init__(self, folder: str | os.PathLike, manager: Any = None):
        self.folder, self._ocp = pathlib.Path(folder), orbax()
        path = (self.folder / "checkpoints").absolute()
        if manager is None:
            if not path.is_dir():
                raise ValueError(
                    f"fork: found no run in {self.folder}, since there is no {path}, expected the folder of a run; "
                    "give another folder."
                )
            options = self._ocp.CheckpointManagerOptions(read_only=True, create=False, save_interval_steps=0)
            manager = self._ocp.CheckpointManager(path, options=options, item_names=("state", "facts"))
        self._manager = manager

    @property
    def epochs(self) -> list[int]:
        """The numbers of epochs after which there is a complete checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def facts(self, epoch: int | None = None) -> tuple[int, dict[str, Any]]:
        """Reads the description of a checkpoint, by default of the newest.

        **Returns:** the number of epochs done, and the description, a dict. In it, `arrays` has the shape, dtype and
        checksum of each array, by its name in this version of tz. `stored` has the name in the file where it differs,
        or an empty name if the file does not have the array. `copied` has, for each array that the file lacks, the
        array to copy it from.

        **Raises:** `ValueError` if there is no such checkpoint, or it is damaged.
        """
        if epoch is None and self.epochs:
            epoch = self.epochs[-1]
        if epoch is None or epoch not in self.epochs:
            raise ValueError(
                f"fork: found no checkpoint of epoch {epoch} in {self.folder}, expected one of the saved epochs, "
                f"{self.epochs or 'none'}; give another epoch or folder."
            )
        try:
            sealed = self._restore(epoch, facts=self._ocp.args.JsonRestore())["facts"]
            if zlib.crc32(sealed["text"].encode()) != sealed["crc32"]:
                raise ValueError("the checksum of its description is wrong")
            facts = json.loads(sealed["text"])
            version, facts["epoch"], facts["seconds"] = facts["format"], int(facts["epoch"]), float(facts["seconds"])
            described = {name: (list(shape), str(dtype), int(x)) for name, (shape, dtype, x) in facts["arrays"].items()}
            stored = {new: old for old, new in _RENAMED.items() if old in described}
            described = {_now(name): x for name, x in described.items()}
            if _RETURNS not in described and _REWARDS in described:  # earlier versions did not count returns
                described[_RETURNS], stored[_RETURNS] = (described[_REWARDS][0], "float32", 0), ""
            copied = _copied(described)
            described |= {new: (_first(old, described[old][0]), *described[old][1:]) for new, old in copied.items()}
            _, _ = facts["best"]  # raises unless it is a pair
        except Exception as error:  # orbax may raise anything on a damaged file
            raise self._damaged(epoch, error) from error
        if version != FORMAT:
            raise ValueError(
                f"Checkpoints: found format {version} in the checkpoint of epoch {epoch} in {self.folder}, expected "
                f"{FORMAT}, which this version of tz reads; update tz."
            )
        if facts["epoch"] != epoch:
            raise self._damaged(epoch, f"it is the checkpoint of epoch {facts['epoch']}")
        return epoch, facts | {"arrays": described, "stored": stored, "copied": copied}

    def read(self, epoch: int, facts: Mapping[str, Any], templates: dict[str, Any]) -> dict[str, Array]:
        """Reads the arrays of a checkpoint by name, with the shapes, dtypes and devices of the templates, see `like`.

        If the checkpoint is from a version that did not count the returns of episodes in progress, these are zeros. No
        other array depends on them.

        **Raises:** `ValueError` if the checkpoint is damaged.
        """
        stored, copied = facts["stored"], facts["copied"]
        missing = {name: _zeros(x) for name, x in templates.items() if stored.get(name) == ""}
        try:
            there = {name: x for name, x in templates.items() if name not in missing and name not in copied}
            templates = {stored.get(name, name): x for name, x in there.items()}
            arrays = self._restore(epoch, state=self._ocp.args.StandardRestore(templates))["state"]
            arrays = missing | {_now(name): jnp.asarray(x) for name, x in arrays.items()}
            sums = jax.device_get(checksums(arrays))
        except Exception as error:
            raise self._damaged(epoch, error) from error
        # Copied arrays have no separate checksum.
        own = {name: checksum for name, (_, _, checksum) in facts["arrays"].items() if name not in copied}
        wrong = [name for name, checksum in own.items() if int(sums[name]) != checksum]
        if wrong:
            raise self._damaged(epoch, f"the checksum of {wrong[0]} is wrong")
        return arrays | {  # copies, since the arrays of a state must not share memory that is donated
            new: (arrays[old][:, 0] if _is_tree(old) else arrays[old].copy()) for new, old in copied.items()
        }

    def _restore(self, epoch: int, **items: Any) -> Any:
        """Reads some items of a checkpoint with orbax."""
        return self._manager.restore(epoch, args=self._ocp.args.Composite(**items))

    def _damaged(self, epoch: int, reason: object) -> ValueError:
        """Returns the error for a damaged checkpoint."""
        others = [other for other in self.epochs if other != epoch]
        return ValueError(
            f"Checkpoints: found a damaged checkpoint of epoch {epoch} in {self.folder} ({str(reason)[:500]}), "
            "expected a complete one; "
            + (f"start a new run from one of the epochs {others} with tz.fork." if others else "it is the only one.")
        )


def _now(name: str) -> str:
    """Returns the name that an array has in this version of tz."""
    return _RENAMED.get(name, name)


def _copied(described: Mapping[str, Any]) -> dict[str, str]:
    """Returns the arrays that a checkpoint of an earlier version lacks, each with the array that it is copied from.

    Earlier versions kept the positions of games only at the roots of their trees.
    """
    if any(name.startswith(".games.metadata") for name in described):
        return {}
    pairs = [(old, new, name) for name in described for old, new in _COPIED.items() if name.startswith(old)]
    return {new + name.removeprefix(old): name for old, new, name in pairs}


def _is_tree(name: str) -> bool:
    return name.startswith(".games.search.tree")


def _first(name: str, shape: list[int]) -> list[int]:
    """Returns the shape of a copy: of an array of trees, `[B, N, ...]`, only the roots are copied, `[B, ...]`."""
    return [*shape[:1], *shape[2:]] if _is_tree(name) else shape


def with_arrays(state: PyTree, arrays: Mapping[str, Array]) -> PyTree:
    """Replaces arrays of a state by name, where random keys are given as their data. Other arrays stay."""

    def replaced(path, x):
        new = arrays.get(jax.tree_util.keystr(path))
        return x if new is None else with_data(x, new)

    return jax.tree_util.tree_map_with_path(replaced, state)


def differences(found: Mapping[str, Any], expected: Mapping[str, Any], most: int = 5) -> str:
    """Describes the arrays whose shape or dtype differs from the expected one; empty if none does."""

    def words(described) -> str:
        return "nothing" if described is None else f"{described[1]}{described[0]}"

    names = [name for name in {**found, **expected} if _shape(found, name) != _shape(expected, name)]
    lines = [f"{name} has {words(found.get(name))}, expected {words(expected.get(name))}" for name in names[:most]]
    return "; ".join(lines) + (f"; and {len(names) - most} more" if len(names) > most else "")


def _shape(arrays: Mapping[str, Any], name: str) -> list[Any] | None:
    """Returns the shape and the dtype of an array, or None if it is not there."""
    return list(arrays[name][:2]) if name in arrays else None


def like(x: Array) -> Any:
    """Returns a template for orbax that makes an array like `x`.

    The new array is committed to its devices exactly when `x` is. If they differed in this, functions that were
    compiled for `x` would be compiled again.
    """
    if x.committed:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    return np.broadcast_to(np.zeros((), x.dtype), x.shape)  # takes no memory


def _zeros(template: Any) -> Array:
    """Returns zeros with the shape, dtype and devices of a template from `like`."""
    return jnp.zeros(template.shape, template.dtype, device=getattr(template, "sharding", None))


def release(state: LoopState) -> None:
    """Deletes the arrays of a state, to free their memory, once only their shapes are needed."""
    for _, x in named_arrays(state):
        if x.size > 0 and not x.is_deleted():
            x.delete()


def describe(x: Any) -> list[Any]:
    """Returns the shape and the dtype of an array, in a form that JSON can hold."""
    return [list(x.shape), str(x.dtype)]


def named(state: LoopState) -> dict[str, Array]:
    """Returns the arrays of a state by name, without empty ones, and with random keys as their data.

    What is no array is not saved. A test must not change it, see `test_phase`, so it is the same after a resume.
    """
    return {name: data_of(x) for name, x in named_arrays(state) if x.size > 0}


@jax.jit
def checksums(arrays: dict[str, Array]) -> dict[str, UInt32[Array, ""]]:
    """Computes a checksum of each array: the sum of its words, each multiplied by an odd number for its place.

    A single changed bit always alters the sum, and two words that change places nearly always do. The sum is exact
    and does not depend on how the array is split over devices.
    """

    def checksum(x):
        x = x.astype(jnp.uint8) if x.dtype == bool else x
        if jnp.iscomplexobj(x):
            x = jnp.stack([x.real, x.imag])
        if jnp.issubdtype(x.dtype, jnp.integer) and jnp.iinfo(x.dtype).bits < 8:
            x = x.astype(jnp.int8)
        words = lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32))
        weights, stride = jnp.uint32(1), 2
        for axis in reversed(range(words.ndim)):
            weights += jnp.uint32(stride % 2**32) * lax.broadcasted_iota(jnp.uint32, words.shape, axis)
            stride *= words.shape[axis]
        return jnp.sum(words.astype(jnp.uint32) * weights, dtype=jnp.uint32)

    return {name: checksum(x) for name, x in arrays.items()}


def orbax() -> Any:
    """Imports orbax, which reads and writes checkpoints.

    **Raises:** `ImportError` if it is not installed.
    """
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError(
            "Checkpoints: found no orbax-checkpoint, expected it to be installed; run pip install 'tz[train]'."
        ) from error
    return orbax.checkpoint
