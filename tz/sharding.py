"""Functions that spread games over devices, along one mesh axis called "data".

Work on separate games (self-play, sampling, matches) runs under `jax.shard_map`, where each device loops over its own
games and waits for no other. A gradient step is an ordinary `jax.jit` of sharded arrays, which adds up the gradients.
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
    """Makes a mesh with the single axis "data".

    **Arguments:**

    - `devices`: the devices of the mesh. By default, all devices of all processes.

    **Returns:** the mesh, whose axis has the type `Auto`.

    **Raises:** `ValueError` if `devices` is empty.
    """
    devices = jax.devices() if devices is None else list(devices)
    if not devices:
        raise ValueError("data_mesh: found no devices, expected at least one; leave the argument out for all devices.")
    return jax.make_mesh((len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def usable_mesh(mesh: Mesh | None) -> Mesh:
    """Returns the mesh with axes of the type `Auto`, or a mesh of all devices for None.

    `jax.make_mesh` makes axes of the type `Explicit` by default. With these, JAX refuses operations on arrays of
    unknown sharding.
    """
    if mesh is None:
        return data_mesh()
    return mesh if mesh.are_all_axes_auto else Mesh(mesh.devices, mesh.axis_names)


def check_mesh(mesh: Mesh, **counts: int) -> None:
    """Raises `ValueError` for a mesh that tz cannot use.

    The mesh must have the one axis "data" and a device of each process, and its size must divide each of `counts`.
    """
    if mesh.axis_names != (DATA,):
        raise ValueError(
            f'mesh: found the axes {mesh.axis_names}, expected the one axis ("{DATA}",); make it with tz.data_mesh().'
        )
    without = set(range(jax.process_count())) - {device.process_index for device in mesh.devices.flat}
    if without:
        raise ValueError(
            f"mesh: found no device of process {min(without)} of {jax.process_count()}, expected at least one of each "
            "process; start fewer processes, or make the mesh with tz.data_mesh(), which takes all devices."
        )
    size = mesh.shape[DATA]
    for name, count in counts.items():
        if count % size:
            nearest = max(size, round(count / size) * size)
            raise ValueError(
                f"mesh: found {name}={count}, which cannot be split evenly over {size} devices, expected a multiple of "
                f"{size}; write {name}={nearest}, or pass a mesh of fewer devices: "
                "mesh=tz.data_mesh(jax.devices()[:n])."
            )


def place(tree: PyTree, mesh: Mesh, *, split: bool) -> PyTree:
    """Places the arrays of `tree` on the mesh: split along their leading axis, or copied to every device.

    With several processes, an array that is not yet on the mesh must be the same in each process. If the mesh has one
    device, arrays that are already on it stay as they are, so that functions compiled for them are not compiled again.
    """
    mesh = usable_mesh(mesh)

    def put(x):
        if isinstance(x, np.ndarray | np.generic):  # such as a table of a game
            x = jnp.asarray(x)
        # XLA never splits an empty array. If this did, the first program that uses its results would compile twice.
        is_split = split and eqx.is_array(x) and x.size > 0
        sharding = NamedSharding(mesh, PartitionSpec(DATA) if is_split else PartitionSpec())
        if not eqx.is_array(x) or (mesh.size == 1 and x.devices() == set(mesh.devices.flat)):
            return x
        if sharding.is_fully_addressable or not x.is_fully_addressable:
            return jax.device_put(x, sharding)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):  # JAX sends only numbers between processes
            return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        return jax.device_put(np.asarray(x), sharding)

    return jax.tree.map(put, tree)


def over_games(mesh: Mesh | None, function: Callable[[Any, Any], Any], shared: PyTree, games: PyTree) -> PyTree:
    """Runs `function(shared, games)` on each device, with the games of that device.

    The devices do not communicate, so each loops over its own games without waiting for the others. With a mesh of
    several devices, call this under `jax.jit`.

    **Arguments:**

    - `mesh`: from [`tz.data_mesh`][]. With None, or with a single device, `function` is called directly.
    - `function`: `(shared, games) -> results`. Each result has a leading axis of games.
    - `shared`: any PyTree, such as a network and settings. Its arrays are whole on every device.
    - `games`: a PyTree of arrays `[B, ...]`, whose leading axis is split over the devices. The number of devices must
        divide `B`.

    **Returns:** the results, joined along their leading axis.
    """
    mesh = None if mesh is None else usable_mesh(mesh)
    if mesh is None or mesh.size == 1:
        return function(shared, games)
    arrays, static = eqx.partition(shared, eqx.is_array)

    def local(arrays, games):
        return function(eqx.combine(arrays, static), games)

    specs = PartitionSpec(), PartitionSpec(DATA)
    # With check_vma, each loop inside would have to declare that its carry differs between devices.
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False)(arrays, games)
