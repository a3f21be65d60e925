"""The states of several seeds as one state, with the seeds along a leading axis, and one of them alone again."""

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
    """The mesh whose devices share the seeds.

    **Raises:** `ValueError` if the states do not belong together, or the mesh does not divide their number.
    """
    if not isinstance(states, list | tuple) or not states:
        raise ValueError(
            f"train_seeds: found states={type(states).__name__}, expected a list of at least one LoopState; write "
            "[tz.init_loop(config, env, network(seed), key=jax.random.key(seed)) for seed in range(4)]."
        )
    for state in states:
        check_instance("train_seeds", "states", state, (LoopState,))
    parts = [eqx.partition(dataclasses.replace(state, testers=()), eqx.is_array) for state in states]
    kinds = [(jax.tree.structure(arrays), _shapes(state)) for (arrays, _), state in zip(parts, states, strict=True)]
    are_alike = all(
        kind == kinds[0] and eqx.tree_equal(parts[0][1], rest) for kind, (_, rest) in zip(kinds, parts, strict=True)
    )
    epochs = [int(state.epoch) for state in states]
    keys = {np.asarray(data_of(state.key)).tobytes() for state in states}
    if len(keys) < len(states):
        raise ValueError(
            "train_seeds: found states with the same key, expected one of its own for each; seeds that are equal would "
            "play the same games. Give each tz.init_loop another key."
        )
    if not are_alike or len(set(epochs)) > 1:
        raise ValueError(
            f"train_seeds: found states of different arrays or epochs (epochs {epochs}), expected states that differ "
            "in their numbers alone; make all with the same settings and the same kind of network."
        )
    if mesh is None:
        return data_mesh(jax.devices()[: math.gcd(len(states), jax.device_count())])
    mesh = usable_mesh(mesh)
    check_mesh(mesh, seeds=len(states))
    return mesh


def _shapes(state: LoopState) -> list[Any]:
    return [(name, x.shape, x.dtype) for name, x in named_arrays(dataclasses.replace(state, testers=()))]


def check_seeds_memory(config: TrainConfig, env: Env, states: Sequence[LoopState], mesh: Mesh) -> None:
    """Raises `ValueError` if a device has not enough memory for its seeds."""
    train, one = states[0].train, data_mesh(list(mesh.local_devices)[:1])
    plan = plan_memory(config, env, train.network, train.norm_state, mesh=one)
    times = len(states) // mesh.size
    check_memory(MemoryPlan(**{name: times * size for name, size in dataclasses.asdict(plan).items()}), mesh)


def stacked(states: Sequence[LoopState], mesh: Mesh) -> LoopState:
    """The states as one, without their testers, with the seeds along a leading axis that is split over the mesh. Their
    games and buffers are given up."""
    device = mesh.local_devices[0]
    parts = [eqx.partition(dataclasses.replace(state, testers=()), eqx.is_array) for state in states]
    arrays = [jax.device_put(arrays, device) for arrays, _ in parts]
    together = place(jax.tree.map(lambda *x: jnp.stack(x), *arrays), mesh, split=True)
    for x in jax.tree.leaves([(state.games, state.replay) for state in states]):
        x.delete()
    return eqx.combine(jax.block_until_ready(together), parts[0][1])


def of_seed(states: LoopState, seed: int, testers: tuple[PyTree, ...], mesh: Mesh) -> LoopState:
    """The state of a seed, on one device. What a call has taken stays as it is."""
    device = mesh.local_devices[0]

    def row(x: Any) -> Any:
        return jax.device_put(x[seed], device) if eqx.is_array(x) and not x.is_deleted() else x

    return eqx.tree_at(lambda state: state.testers, jax.tree.map(row, states), testers)
