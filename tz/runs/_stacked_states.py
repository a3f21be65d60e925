"""Stacks the states of several seeds along a leading axis, and takes the state of one seed out again."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from tz._arguments import check_instance
from tz._arrays import data_of, named_arrays
from tz.games.env import Env
from tz.learn.settings import LoopState, TrainConfig
from tz.runs.memory_plan import MemoryPlan, check_memory, plan_memory
from tz.sharding import check_mesh, data_mesh, place, usable_mesh


def mesh_of(states: Sequence[LoopState], mesh: Mesh | None) -> Mesh:
    """Checks that the states can be trained together, and returns the mesh whose devices share them.

    By default the number of devices is the greatest common divisor of the numbers of states and of all devices.

    **Raises:** `ValueError` if two states have the same key or differ in more than the values of their arrays, or if
    the mesh does not divide their number.
    """
    if not isinstance(states, list | tuple) or not states:
        raise ValueError(
            f"train_seeds: found states={type(states).__name__}, expected a list of at least one LoopState; write "
            "[tz.init_loop(config, env, network(seed), key=jax.random.key(seed)) for seed in range(4)]."
        )
    for state in states:
        check_instance("train_seeds", "states", state, (LoopState,))
    # Testers are left out of the comparison and of the stack, since they play for one seed at a time.
    parts = [eqx.partition(dataclasses.replace(state, testers=()), eqx.is_array) for state in states]
    kinds = [(jax.tree.structure(arrays), _shapes(state)) for (arrays, _), state in zip(parts, states, strict=True)]
    are_alike = all(
        kind == kinds[0] and eqx.tree_equal(parts[0][1], rest) for kind, (_, rest) in zip(kinds, parts, strict=True)
    )
    epochs = [int(state.epoch) for state in states]
    keys = {np.asarray(data_of(state.key)).tobytes() for state in states}
    if len(keys) < len(states):
        raise ValueError(
            "train_seeds: found states with the same key, expected a different key for each, since equal keys play the "
            "same games; give each tz.init_loop its own key."
        )
    if not are_alike or len(set(epochs)) > 1:
        raise ValueError(
            f"train_seeds: found states with different arrays or epochs (epochs {epochs}), expected states that differ "
            "only in the values of their arrays; make all of them with the same settings and the same kind of network."
        )
    if mesh is None:
        return data_mesh(jax.devices()[: math.gcd(len(states), jax.device_count())])
    mesh = usable_mesh(mesh)
    check_mesh(mesh, seeds=len(states))
    return mesh


def _shapes(state: LoopState) -> list[Any]:
    """Returns the name, shape and dtype of each array, except for the arrays of testers."""
    return [(name, x.shape, x.dtype) for name, x in named_arrays(dataclasses.replace(state, testers=()))]


def check_seeds_memory(config: TrainConfig, env: Env, states: Sequence[LoopState], mesh: Mesh) -> None:
    """Raises `ValueError` if a device does not have enough memory for its seeds."""
    train, one = states[0].train, data_mesh(list(mesh.local_devices)[:1])
    plan = plan_memory(config, env, train.network, train.norm_state, mesh=one)
    times = len(states) // mesh.size
    check_memory(MemoryPlan(**{name: times * size for name, size in dataclasses.asdict(plan).items()}), mesh)


def stacked(states: Sequence[LoopState], mesh: Mesh) -> LoopState:
    """Stacks the states, without their testers, along a leading axis that is split over the mesh.

    The games and buffers of the given states are deleted, to free their memory.
    """
    device = mesh.local_devices[0]
    parts = [eqx.partition(dataclasses.replace(state, testers=()), eqx.is_array) for state in states]
    arrays = [jax.device_put(arrays, device) for arrays, _ in parts]  # jnp.stack needs all of them on one device
    together = place(jax.tree.map(lambda *x: jnp.stack(x), *arrays), mesh, split=True)
    for x in jax.tree.leaves([(state.games, state.replay) for state in states]):
        x.delete()
    return eqx.combine(jax.block_until_ready(together), parts[0][1])


def of_seed(states: LoopState, seed: int, testers: tuple[PyTree, ...], mesh: Mesh) -> LoopState:
    """Takes the state of one seed out of the stack and puts it on one device.

    Arrays that were donated to a failed call stay as they are; `tz.runs._new_games.revive` replaces them.
    """
    device = mesh.local_devices[0]

    def row(x: Any) -> Any:
        return jax.device_put(x[seed], device) if eqx.is_array(x) and not x.is_deleted() else x

    return eqx.tree_at(lambda state: state.testers, jax.tree.map(row, states), testers)
