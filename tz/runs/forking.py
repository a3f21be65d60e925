"""Forks: new runs that start from the saved state of another run, with other settings."""

import os
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tz.games.env import Env
from tz.learn.new_games import evaluator_of, learned_model
from tz.learn.self_play import CollectState
from tz.learn.settings import LoopState, TrainConfig
from tz.mcts.models import Model
from tz.mcts.simulation import init_search
from tz.runs.checkpoint_format import SavedRun, describe, differences, named, release, with_arrays
from tz.runs.loop import on_mesh
from tz.sharding import usable_mesh

_ROWS = tuple(f".replay.{name}" for name in ("observation", "action_mask", "policy", "value", "extra", "ends", "steps"))
_POSITION = ".games.search.tree.state"


def fork(
    folder: str | os.PathLike,
    config: TrainConfig,
    env: Env,
    state: LoopState,
    *,
    epoch: int | None = None,
    seed: int | None = None,
    mesh: Mesh | None = None,
) -> LoopState:
    """Returns a saved state as the start of a new run, whose settings may differ. The folder is only read.

    Settings that no array depends on can be changed freely, such as the learning rate, the loss, the number of
    simulations or the temperature. Some arrays may differ as well. If the trees do, new ones start at the positions
    that the games have reached. If the buffer does, it keeps the newest positions that fit. If the states of the
    testers do, the testers start again. The network, the optimiser and the number of games must be the same.

    **Arguments:**

    - `folder`: the folder of the original run.
    - `config`, `env`: the settings and the game of the new run.
    - `state`: a state from [`tz.init_loop`][] with these settings, which tells what arrays the new run has. Its values
        are ignored, except for the hyperparameters of `optax.inject_hyperparams`. Its arrays are deleted.
    - `epoch`: the checkpoint to start from, as its number of epochs done; by default the newest.
    - `seed`: changes the random keys, so that forks with different seeds play different games. With None, the default,
        the keys are those of the original run, and a fork with the same settings plays the same games.
    - `mesh`: the devices of the new run, as in [`tz.init_loop`][].

    **Returns:** the state to continue from, with the hyperparameters of `state`.

    **Raises:** `ValueError` if there is no such checkpoint, if it is damaged, or if something differs that must be the
    same. The message shows the difference.
    """
    saved = SavedRun(folder)
    epoch, facts = saved.facts(epoch)
    found, shapes = facts["arrays"], {name: describe(x) for name, x in named(state).items()}
    if changed := differences(_fixed(found), _fixed(shapes)):
        raise ValueError(
            f"fork: found a run in {saved.folder} with other arrays than these settings need ({changed}), expected the "
            "same network, optimiser and number of games; use the settings of the run for these."
        )
    new = {name: x.copy() for name, x in named(state).items() if ".hyperparams[" in name}
    release(state)
    # Templates with the shapes of the file, not of `state`; `broadcast_to` makes them without allocating memory.
    templates = {name: np.broadcast_to(np.zeros((), jnp.dtype(x[1])), x[0]) for name, x in found.items()}
    old = with_arrays(state, saved.read(epoch, facts, templates) | new)
    mesh = usable_mesh(mesh)

    def is_same(part: str) -> bool:  # whether the arrays of a part have the shapes that the new settings need
        one, other = ({name: x for name, x in all.items() if name.startswith(part)} for all in (found, shapes))
        return not differences(one, other)

    model = learned_model(config, env, old.train)
    games = old.games if is_same(".games") else _with_new_trees(config, model, old.games)
    replay = old.replay if is_same(".replay") else jax.jit(jax.vmap(config.replay.resize))(old.replay)
    testers = old.testers
    if not is_same(".testers"):
        testers = tuple(tester.init(evaluator_of(config, env, old.train), mesh=mesh) for tester in config.testers)
    testers = jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, testers)  # the state may be donated
    key = old.key
    if seed is not None:
        bits = jax.random.bits(jax.random.key(seed))  # `fold_in` takes 32 bits, a seed may have 64
        key = jax.random.fold_in(key, bits)
        keys = jax.vmap(jax.random.fold_in, (0, None))(games.key, bits)
        games = eqx.tree_at(lambda games: games.key, games, keys)
    return on_mesh(LoopState(old.train, games, replay, testers, old.epoch, key), mesh)


def _fixed(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arrays that must be the same, without the axes that may differ: nodes of trees, rows of buffers."""
    fixed = {}
    for name, (shape, dtype, *_) in arrays.items():
        # Shapes are [B, N, ...] for trees and [B, capacity, ...] for buffers: the second axis may differ.
        is_tree, is_row = name.startswith(_POSITION), name.startswith(_ROWS)
        if name.startswith((".testers", ".games.search.tree", ".games.search.notes")) and not is_tree:
            continue
        fixed[name] = [[*shape[:1], *shape[2:]] if is_tree or is_row else list(shape), dtype]
    return fixed


@eqx.filter_jit
def _with_new_trees(config: TrainConfig, model: Model | None, games: CollectState) -> CollectState:
    """Starts new trees at the positions that the games have reached."""

    def start(env_state, metadata):
        own = jax.tree.map(jnp.copy, metadata)  # games and searches must not share arrays that are donated
        return init_search(config.mcts, env_state, own, model=model)

    return eqx.tree_at(lambda games: games.search, games, jax.vmap(start)(games.env_state, games.metadata))
