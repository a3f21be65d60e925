"""Ideas of other projects as changes of the recipe, for `study.py`.

Each idea takes a recipe and its settings and returns an `Idea`: new settings, another network, whether the network
returns a plane beside policy and value, and a function that finds positions for self-play to begin in.
"""

import dataclasses
import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

import tz

NUM_STARTS = 2048
"""The number of earlier positions in the list from which games begin."""
FRACTION = 0.25
"""The fraction of the games of self-play that begin in an earlier position."""
NUM_PARTS = 12
"""The number of parts of the training. A new list of earlier positions is drawn before each part but the first."""


@dataclasses.dataclass(frozen=True)
class Idea:
    """The changes of a recipe. `openings(state, key)` returns positions `[NUM_STARTS, ...]` of the buffer.

    `network` makes another network from the network of the recipe and a key.
    """

    config: tz.TrainConfig
    has_plane: bool = False
    network: Callable[[tz.AZResNet, PRNGKeyArray], eqx.Module] | None = None
    openings: Callable[[tz.learn.LoopState, PRNGKeyArray], PyTree] | None = None

    def start(self, recipe: tz.Recipe, env: tz.Env, seed: int) -> tz.learn.LoopState:
        """Makes a network, and new games."""
        if self.has_plane:  # the network of a recipe has one for the final board
            recipe = dataclasses.replace(recipe, ownership=1.0)
        state = recipe.start(self.config, env, seed=seed)
        if self.network is None:
            return state
        network_key, loop_key = jax.random.split(jax.random.key(seed))
        return tz.init_loop(self.config, env, self.network(state.train.network, network_key), key=loop_key)

    def starting(self, env: tz.Env, state: tz.learn.LoopState | None, *, key: PRNGKeyArray) -> tz.Env:
        """Returns the game whose episodes begin, in part, in positions of the buffer; at first in new games."""
        if self.openings is None:
            return env
        if state is not None:
            return tz.games.starts_from(env, self.openings(state, key), FRACTION)
        found = jax.vmap(env.init)(jax.random.split(key, NUM_STARTS))
        return tz.games.starts_from(env, found, FRACTION)


def _soft_policy_loss(network, output, sample: tz.Sample, *, l2: float) -> tuple[Array, dict[str, Array]]:
    """Adds a second policy, the sum of a plane over the rows, whose target has a temperature of 4, with weight 8.

    The temperature and the weight are those of KataGo (`docs/KataGoMethods.md` in its repository).
    """
    loss, metrics = tz.az_loss(network, output, sample, l2_reg_lambda=l2)
    logits = jnp.where(sample.action_mask, jnp.sum(output[2][..., 0], 0), jnp.finfo(jnp.float32).min)
    target = jnp.where(sample.action_mask, sample.policy, 0.0) ** 0.25
    target /= jnp.sum(target)
    soft = -8.0 * sample.policy_weight * jnp.sum(target * jax.nn.log_softmax(logits))
    return loss + soft, metrics | {"soft_policy_loss": soft}


def _moves_left_loss(network, output, sample: tz.Sample, *, l2: float) -> tuple[Array, dict[str, Array]]:
    """Adds the squared error of the number of moves left, as a fraction of the 42 cells, which a plane's mean gives."""
    loss, metrics = tz.az_loss(network, output, sample, l2_reg_lambda=l2)
    error = jnp.square(jnp.mean(output[2]) - sample.end.moves_left.astype(jnp.float32) / 42)
    return loss + error, metrics | {"moves_left_loss": error}


def moves_left(recipe: tz.Recipe, config: tz.TrainConfig) -> Idea:
    """The network also predicts how many moves are left."""
    changes = {
        "record_end": lambda env_state, metadata: jnp.int8(0),  # nothing of the last position; its distance is known
        "loss": functools.partial(_moves_left_loss, l2=recipe.l2),
        "augment": functools.partial(tz.learn.random_mirror, turn_records=lambda sample, turn: sample),
    }
    return Idea(dataclasses.replace(config, **changes), has_plane=True)


def soft_policy(recipe: tz.Recipe, config: tz.TrainConfig) -> Idea:
    """The network also learns a softer policy target, as in KataGo."""
    return Idea(dataclasses.replace(config, loss=functools.partial(_soft_policy_loss, l2=recipe.l2)), has_plane=True)


def four_leaves(recipe: tz.Recipe, config: tz.TrainConfig) -> Idea:
    """A search evaluates four leaves at a time."""
    return Idea(dataclasses.replace(config, mcts=dataclasses.replace(config.mcts, num_leaves=4)))


def fresh_trees(recipe: tz.Recipe, config: tz.TrainConfig) -> Idea:
    """Each search of self-play begins with an empty tree."""
    return Idea(dataclasses.replace(config, mcts=dataclasses.replace(config.mcts, persist_tree=False)))


class PooledResNet(eqx.Module):
    """A residual network whose blocks also see the whole board: the means and the maxima of their channels.

    As in KataGo (`docs/KataGoMethods.md` in its repository), a linear map of them is added to the channels between the
    two convolutions of a block.
    """

    base: tz.AZResNet
    pools: tuple[eqx.nn.Linear, ...]

    def __call__(self, observation: Array) -> tuple[Array, Array]:
        base = self.base
        x = jax.nn.relu(base.stem(observation.astype(base.stem.weight.dtype), None)[0])
        for (first, second), pool in zip(base.blocks, self.pools, strict=True):
            branch = first(x, None)[0]
            summary = jnp.concatenate([jnp.mean(branch, (0, 1)), jnp.max(branch, (0, 1))])
            x = jax.nn.relu(x + second(jax.nn.relu(branch + pool(summary)), None)[0])
        policy, value = base.policy_conv(x, None)[0], base.value_conv(x, None)[0]
        logits = base.policy_linear(jax.nn.relu(policy).ravel())
        value = base.value_linear(jax.nn.relu(base.value_hidden(jax.nn.relu(value).ravel())))
        return logits, base.value_head(value)


def pooled(base: tz.AZResNet, key: PRNGKeyArray) -> PooledResNet:
    """Gives each block of a network a view of the whole board."""
    num_channels = base.stem.weight.shape[-1]
    keys = jax.random.split(key, len(base.blocks))
    return PooledResNet(base, tuple(eqx.nn.Linear(2 * num_channels, num_channels, key=key) for key in keys))


def global_pooling(recipe: tz.Recipe, config: tz.TrainConfig) -> Idea:
    """The blocks of the network see means and maxima over the whole board, as in KataGo."""
    return Idea(config, network=pooled)


def _openings(state: tz.learn.LoopState, key: PRNGKeyArray, *, by_regret: bool) -> PyTree:
    """Draws positions of the buffer whose targets are known, all alike or in proportion to the squared regret."""
    replay = state.replay
    positions, value = replay.extra
    num_games, capacity = value.shape
    # The oldest row is in slot `position - size`, and the oldest `num_known` rows are known.
    index = (jnp.arange(capacity) - (replay.position - replay.size)[:, None]) % capacity
    known = index < replay.num_known[:, None]
    regret = jnp.square(replay.value.offset - value) if by_regret else jnp.ones_like(value)
    weights = jnp.where(known, regret + 1e-6, 0.0).ravel()
    rows = jax.random.choice(key, weights.size, (NUM_STARTS,), p=weights / jnp.sum(weights))
    return jax.tree.map(lambda x: x.reshape(num_games * capacity, *x.shape[2:])[rows], positions)


def _restarts(recipe: tz.Recipe, config: tz.TrainConfig, *, by_regret: bool) -> Idea:
    mcts = config.mcts
    changes = {
        "record": lambda env_state, searched, metadata: ((env_state, metadata), tz.root_value(mcts, searched)),
        "augment": functools.partial(tz.learn.random_mirror, turn_records=lambda sample, turn: sample),
    }
    openings = eqx.filter_jit(functools.partial(_openings, by_regret=by_regret))
    return Idea(dataclasses.replace(config, **changes), openings=openings)


uniform_restarts = functools.partial(_restarts, by_regret=False)
"""A quarter of the games begin in positions of the buffer, all equally likely."""

regret_restarts = functools.partial(_restarts, by_regret=True)
"""A quarter of the games begin in positions of the buffer, most often where the value target differs most from the
value that the search found. This is a simple form of Regret-Guided Search Control (arXiv 2602.20809)."""
