"""Forks: a new run that begins with the saved state of another, with other settings."""

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
    mesh: Mesh | None = None,
) -> LoopState:
    """A saved state as the beginning of another run, whose settings may differ. The folder is only read.

    Settings that are in no array may be anything: learning rate, loss, simulations, temperature. Where the arrays
    differ, trees of another size are begun anew at the positions that were reached; of a buffer, the newest positions
    are kept that fit; testers begin anew. All else must be as it was: network, optimiser and the number of games.

    **Arguments:** `folder`, of the run to begin from; `config` and `env`, the new settings; `state`, from
    [`tz.init_loop`][] with these, whose values do not matter, only what arrays it has, and which is donated; `epoch`,
    of the checkpoint, by default the newest; `mesh`, as [`tz.init_loop`][] takes it.

    **Returns:** the state to train on from. The hyperparameters of `optax.inject_hyperparams` are those of `state`.

    **Raises:** `ValueError` if there is no such checkpoint, it is damaged, or something differs that must not, which is
    shown.
    """
    saved = SavedRun(folder)
    epoch, facts = saved.facts(epoch)
    found, shapes = facts["arrays"], {name: describe(x) for name, x in named(state).items()}
    if changed := differences(_fixed(found), _fixed(shapes)):
        raise ValueError(f"The run in {saved.folder} cannot go on with these settings: {changed}.")
    new = {name: x.copy() for name, x in named(state).items() if ".hyperparams[" in name}
    release(state)
    templates = {name: np.broadcast_to(np.zeros((), jnp.dtype(x[1])), x[0]) for name, x in found.items()}
    old = with_arrays(state, saved.read(epoch, facts, templates) | new)
    mesh = usable_mesh(mesh)

    def is_same(part: str) -> bool:
        one, other = ({name: x for name, x in all.items() if name.startswith(part)} for all in (found, shapes))
        return not differences(one, other)

    model = learned_model(config, env, old.train)
    games = old.games if is_same(".games") else _with_new_trees(config, model, old.games)
    replay = old.replay if is_same(".replay") else jax.jit(jax.vmap(config.replay.resize))(old.replay)
    testers = old.testers
    if not is_same(".testers"):
        testers = tuple(tester.init(evaluator_of(config, env, old.train), mesh=mesh) for tester in config.testers)
    return on_mesh(LoopState(old.train, games, replay, testers, old.epoch, old.key), mesh)


def _fixed(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays that must not differ, without the axes that may: the nodes of a tree and the rows of a buffer."""
    fixed = {}
    for name, (shape, dtype, *_) in arrays.items():
        is_tree, is_row = name.startswith(_POSITION), name.startswith(_ROWS)
        if name.startswith((".testers", ".games.search.tree", ".games.search.notes")) and not is_tree:
            continue
        fixed[name] = [[*shape[:1], *shape[2:]] if is_tree or is_row else list(shape), dtype]
    return fixed


@eqx.filter_jit
def _with_new_trees(config: TrainConfig, model: Model | None, games: CollectState) -> CollectState:
    def start(env_state, metadata):
        own = jax.tree.map(jnp.copy, metadata)  # or games and searches would share arrays that are given up
        return init_search(config.mcts, env_state, own, model=model)

    return eqx.tree_at(lambda games: games.search, games, jax.vmap(start)(games.env_state, games.metadata))
