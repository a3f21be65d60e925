"""Games spread over devices, along one mesh axis called "data".

What is done game by game (self-play, sampling, matches) runs under `jax.shard_map`, where each device loops over its
own games and waits for no other. A gradient step is an ordinary `jax.jit` of sharded arrays, which adds up gradients.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

DATA = "data"


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axis "data" over `devices`; by default over all there are, those of other processes included."""
    devices = jax.devices() if devices is None else list(devices)
    if not devices:
        raise ValueError("data_mesh: devices is empty, expected at least one device.")
    return jax.make_mesh((len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def usable_mesh(mesh: Mesh | None) -> Mesh:
    """The mesh as tz works with it: of all devices if there is none, and with axes of the type `Auto`.

    `jax.make_mesh` makes axes of the type `Explicit` by default, under which operations on arrays of unknown sharding
    are refused.
    """
    if mesh is None:
        return data_mesh()
    return mesh if mesh.are_all_axes_auto else Mesh(mesh.devices, mesh.axis_names)


def check_mesh(mesh: Mesh, **counts: int) -> None:
    """Raises `ValueError` if the axes of the mesh are not ("data",), it leaves a process out, or it does not divide one
    of `counts`."""
    if mesh.axis_names != (DATA,):
        raise ValueError(
            f'mesh: found the axes {mesh.axis_names}, expected the one axis ("{DATA}",); make it with tz.data_mesh().'
        )
    without = set(range(jax.process_count())) - {device.process_index for device in mesh.devices.flat}
    if without:
        raise ValueError(
            f"The mesh has no device of process {min(without)} of {jax.process_count()}, but every process needs one. "
            "Start fewer processes, or make the mesh with tz.data_mesh(), which takes all devices."
        )
    size = mesh.shape[DATA]
    for name, count in counts.items():
        if count % size:
            nearest = max(size, round(count / size) * size)
            raise ValueError(
                f"{name}={count} cannot be split evenly over {size} devices; the nearest that can is {nearest}. Change "
                "it, or pass a mesh of fewer devices: mesh=tz.data_mesh(jax.devices()[:n])."
            )


def place(tree: PyTree, mesh: Mesh, *, split: bool) -> PyTree:
    """The arrays of `tree` on the mesh: split along their leading axis, or whole on every device.

    Arrays that are not yet on a mesh of several processes must be the same in each of them. What is already on the one
    device of a mesh is left as it is, so that functions compiled for it need not be compiled again.
    """
    mesh = usable_mesh(mesh)

    def put(x):
        # XLA does not split what is empty; if this did, the first use of its results would be compiled once more.
        is_split = split and eqx.is_array(x) and x.size > 0
        sharding = NamedSharding(mesh, PartitionSpec(DATA) if is_split else PartitionSpec())
        if not eqx.is_array(x) or (mesh.size == 1 and x.devices() == set(mesh.devices.flat)):
            return x
        if sharding.is_fully_addressable or not x.is_fully_addressable:
            return jax.device_put(x, sharding)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):  # from one process to several only numbers travel
            return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        return jax.device_put(np.asarray(x), sharding)

    return jax.tree.map(put, tree)


def over_games(mesh: Mesh | None, function: Callable[[Any, Any], Any], shared: PyTree, games: PyTree) -> PyTree:
    """`function(shared, games)`, run on each device with its own part of `games`, without any communication.

    **Arguments:** `mesh`, None for one device; `shared`, whole on every device; `games`, arrays whose leading axis is
    split. All results are joined along theirs. With a mesh, to be called under `jax.jit`.
    """
    mesh = None if mesh is None else usable_mesh(mesh)
    if mesh is None or mesh.size == 1:
        return function(shared, games)
    arrays, static = eqx.partition(shared, eqx.is_array)

    def local(arrays, games):
        return function(eqx.combine(arrays, static), games)

    specs = PartitionSpec(), PartitionSpec(DATA)
    # The check that is left out asks of every loop inside whether its carry differs between devices: all may.
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False)(arrays, games)
