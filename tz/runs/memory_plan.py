"""Computes the memory that a run will need, from shapes alone, before anything is allocated."""

import dataclasses
import os
import pathlib
from typing import Any

import equinox as eqx
import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from tz.games.env import Env
from tz.learn.new_games import evaluator_of, learned_model
from tz.learn.settings import TrainConfig
from tz.learn.training import init_train
from tz.matches.testers import Tester
from tz.mcts.simulation import Evaluator
from tz.nn.outputs import apply
from tz.runs._new_games import compiled_start
from tz.sharding import DATA, check_mesh, usable_mesh

_PRODUCTS = "dot_general", "conv_general_dilated"


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """The memory that a run needs on each device, in bytes.

    The first four fields are exact and in use all the time. The last two are estimates of the additional memory while
    one of the two phases runs, since XLA decides how much it allocates. Gradient steps also need a second copy of
    `network`. `print(plan)` shows a summary in MB or GB.

    **Fields:**

    - `games`: the games in progress, with their search trees.
    - `buffer`: the replay buffer.
    - `network`: the network, the state of the optimiser, and the running average of the weights.
    - `testers`: the states of the testers.
    - `self_play`: the additional memory of self-play.
    - `gradient`: the additional memory of a gradient step.
    """

    games: int
    buffer: int
    network: int
    testers: int
    self_play: int
    gradient: int

    @property
    def state(self) -> int:
        """The memory that is in use all the time, in bytes."""
        return self.games + self.buffer + self.network + self.testers

    def __str__(self) -> str:
        parts = dataclasses.asdict(self)
        # Self-play and gradient steps take turns, so only the larger of the two counts.
        work = max(parts.pop("self_play"), parts.pop("gradient") + self.network)
        listed = ", ".join(f"{name} {_text(size)}" for name, size in parts.items())
        return f"memory of each device: {_text(self.state)} ({listed}) and about {_text(work)} of working memory"


def plan_memory(
    config: TrainConfig, env: Env, network: PyTree, norm_state: eqx.nn.State | None = None, *, mesh: Mesh
) -> MemoryPlan:
    """Computes the memory that a run with these settings will need on each device. It allocates nothing.

    The estimates are from measurements (`experiments/memory.py`): in self-play, XLA needs up to four times the memory
    of the games and their trees, and for a gradient, about twice the memory of the outputs of all layers on a batch.

    **Arguments:**

    - `config`: the settings of the training.
    - `env`: the game.
    - `network`: the network; only its shapes matter.
    - `norm_state`: the state of a stateful network, as in [`tz.init_train`][].
    - `mesh`: the devices, from [`tz.data_mesh`][].

    **Returns:** the bytes that each device needs.

    **Raises:** `ValueError` if the games cannot be split evenly over the devices.
    """
    mesh = usable_mesh(mesh)
    check_mesh(mesh, num_games=config.num_games)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), config.num_games))
    average = config.average_decay is not None
    train = eqx.filter_eval_shape(lambda: init_train(config.optimizer, network, norm_state, average=average))
    model = eqx.filter_eval_shape(learned_model, config, env, train)
    games, buffer = compiled_start.shapes(config, env, model, mesh, keys)
    evaluator = eqx.filter_eval_shape(evaluator_of, config, env, train)

    def output(observation, norm_state):
        return apply(network, observation, norm_state, key=jax.random.key(0))

    def batched(x):
        return jax.ShapeDtypeStruct((config.train_batch_size, *x.shape), x.dtype)

    outputs = jax.vmap(output, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
    batch = jax.tree.map(batched, env.observation)
    layers = _bytes_of_products(jax.make_jaxpr(outputs)(batch, norm_state).jaxpr)
    size = mesh.shape[DATA]
    return MemoryPlan(
        games=_bytes(games) // size,
        buffer=_bytes(buffer) // size,
        network=_bytes(train),
        testers=sum(_bytes_of_tester(tester, evaluator, mesh) for tester in config.testers),
        self_play=4 * _bytes(games) // size,
        gradient=2 * layers // size,
    )


def check_memory(plan: MemoryPlan, mesh: Mesh, limit: int | None = None) -> None:
    """Raises `ValueError` if a run needs more memory than a device has. The message says which setting to lower.

    **Arguments:** `limit`, the memory of a device in bytes, by default as reported by the device or, for CPUs, by the
    operating system.
    """
    limit = _limit(mesh) if limit is None else limit
    # Moving the root of a tree makes a second tree before the first is freed, and gradient steps need a second network.
    needed = plan.state + max(plan.games, plan.network)
    if limit is None or needed <= limit:
        return
    advice = {
        "games": "num_games or the search's max_nodes (for games of many actions, max_actions helps most; on the "
        "command line --num-games, --max-nodes, --max-actions)",
        "buffer": "the buffer's capacity or num_games (on the command line --capacity, --num-games)",
        "network": "the size of the network (on the command line --num-blocks, --num-channels)",
        "testers": "the testers' pool of networks, total_epochs (on the command line: --test random)",
    }
    largest = max(advice, key=lambda name: getattr(plan, name))
    raise ValueError(
        f"memory: found a run that needs at least {_text(needed)} on each device, which has {_text(limit)} ({plan}), "
        f"expected one that fits; lower {advice[largest]}, or use more devices."
    )


def _limit(mesh: Mesh) -> int | None:
    """Returns the memory of a device in bytes, or None if it is not known. CPU devices share the system's memory."""
    device = mesh.local_devices[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # this system does not tell
        return None
    # In a container, the limit may be lower than the memory of the machine.
    cgroup = pathlib.Path("/sys/fs/cgroup/memory.max")
    allowed = cgroup.read_text().strip() if cgroup.exists() else "max"
    return min(total, int(allowed) if allowed.isdigit() else total) // len(mesh.local_devices)


def _bytes(tree: PyTree) -> int:
    """Returns the bytes of all arrays of a tree, or of arrays of these shapes."""
    leaves = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.ShapeDtypeStruct) or eqx.is_array(x)]
    return sum(x.size * x.dtype.itemsize for x in leaves)


def _bytes_of_tester(tester: Tester, evaluator: Evaluator, mesh: Mesh) -> int:
    """Returns the bytes of a tester's state, 0 if they cannot be known in advance."""
    try:
        return _bytes(eqx.filter_eval_shape(lambda evaluator: tester.init(evaluator, mesh=mesh), evaluator))
    except jax.errors.JAXTypeError:  # the tester looks at values, so shapes alone are not enough
        return 0


def _bytes_of_products(jaxpr: Any) -> int:
    """Returns the bytes of the results of all matrix products and convolutions, including those in called functions."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in _PRODUCTS:
            total += sum(x.aval.size * x.aval.dtype.itemsize for x in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            total += _bytes_of_products(inner) if hasattr(inner, "eqns") else 0
    return total


def _text(size: int) -> str:
    """Writes a number of bytes in MB or GB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
