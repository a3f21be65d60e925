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
import trunks
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

    `network` makes another network from the network of the recipe and a key, and `game` another game of self-play.
    """

    config: tz.TrainConfig
    has_plane: bool = False
    network: Callable[[tz.AZResNet, PRNGKeyArray], eqx.Module] | None = None
    openings: Callable[[tz.learn.LoopState, PRNGKeyArray], PyTree] | None = None
    game: Callable[[tz.Env], tz.Env] = lambda env: env

    def start(self, recipe: tz.Recipe, env: tz.Env, seed: int) -> tz.learn.LoopState:
        """Makes a network, and new games."""
        if self.has_plane:  # the network of a recipe has one for the final board
            recipe = dataclasses.replace(recipe, ownership=1.0)
        if self.network is None:
            return recipe.start(self.config, env, seed=seed)
        state = recipe.start(recipe.build()[0], env, seed=seed)  # for its network
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


NUM_MOVES = 8
"""The number of moves after which a game is cut, for the ideas that cut games."""


def cut_games(recipe: tz.Recipe, config: tz.TrainConfig) -> Idea:
    """Games of self-play are cut after some moves, and their value is bootstrapped."""
    return Idea(dataclasses.replace(config, max_episode_moves=NUM_MOVES))


def drawn_games(recipe: tz.Recipe, config: tz.TrainConfig) -> Idea:
    """Games of self-play that are not over after some moves are drawn."""
    return Idea(config, game=_drawn_after)


def _drawn_after(env: tz.Env) -> tz.Env:
    def init(key):
        state, metadata = env.init(key)
        return (state, jnp.int32(0)), metadata

    def step(state, action):
        (state, count), over = state, state[1] >= NUM_MOVES
        after, metadata = env.step(state, action)
        rewards = jnp.where(over, 0.0, metadata.rewards)
        terminated = metadata.terminated | (count + 1 >= NUM_MOVES)
        metadata = tz.StepMetadata(rewards, metadata.action_mask, terminated, metadata.cur_player_id)
        return (after, count + 1), metadata

    return dataclasses.replace(env, init=init, step=step, observe=lambda state: env.observe(state[0]), draw=None)


MEAN_SURPRISE = 0.7
"""The typical surprise of a position, in nats. The mean of a batch falls from 0.9 to 0.65 in twenty epochs."""


def surprise(recipe: tz.Recipe, config: tz.TrainConfig) -> Idea:
    """Half of the weight of a position in the loss is proportional to its surprise.

    The surprise is the Kullback-Leibler divergence of the network's current policy from the target. In expectation, and
    up to a factor, the weight is the same as drawing the position that much more often.
    """
    return Idea(dataclasses.replace(config, loss=functools.partial(_surprising_loss, usual=config.loss)))


def _surprising_loss(network, output, sample: tz.Sample, *, usual: Callable) -> tuple[Array, dict[str, Array]]:
    loss, metrics = usual(network, output, sample)
    entropy = jnp.sum(jax.scipy.special.entr(sample.policy))
    surprise = jax.lax.stop_gradient(metrics["policy_loss"]) - entropy
    weight = 0.5 + 0.5 * surprise / MEAN_SURPRISE
    return weight * (loss - metrics["l2_loss"]) + metrics["l2_loss"], metrics | {"surprise": surprise}


def _soft_policy_loss(network, output, sample: tz.Sample, *, usual: Callable) -> tuple[Array, dict[str, Array]]:
    """Adds a second policy, which the last plane gives and whose target has a temperature of 4, with weight 8.

    The temperature and the weight are those of KataGo (`docs/KataGoMethods.md` in its repository). The logits are the
    cells of the plane and 0 for passing, or its sums over the rows if an action is a column.
    """
    logits, value, planes = output
    loss, metrics = usual(network, (logits, value, planes[..., :-1]), sample)
    plane = planes[..., -1]
    soft = jnp.sum(plane, 0) if logits.size == plane.shape[1] else jnp.append(plane.ravel(), 0.0)
    soft = jnp.where(sample.action_mask, soft, jnp.finfo(jnp.float32).min)
    target = jnp.where(sample.action_mask, sample.policy, 0.0) ** 0.25
    target /= jnp.sum(target)
    soft_loss = -8.0 * sample.policy_weight * jnp.sum(target * jax.nn.log_softmax(soft))
    return loss + soft_loss, metrics | {"soft_policy_loss": soft_loss}


def _moves_left_loss(network, output, sample: tz.Sample, *, l2: float) -> tuple[Array, dict[str, Array]]:
    """Adds the squared error of the number of moves left, as a fraction of the 42 cells, which a plane's mean gives."""
    loss, metrics = tz.az_loss(network, output, sample, l2_reg_lambda=l2)
    error = jnp.square(jnp.mean(output[2]) - sample.end.moves_left.astype(jnp.float32) / 42)
    return loss + error, metrics | {"moves_left_loss": error}


def _with_records(config: tz.TrainConfig) -> Callable:
    """Returns the augmentation for samples with records that a symmetry leaves as they are."""
    known = {"turn_records": lambda sample, turn: sample} | getattr(config.augment, "keywords", {})
    return functools.partial(config.augment, **known)


def moves_left(recipe: tz.Recipe, config: tz.TrainConfig) -> Idea:
    """The network also predicts how many moves are left."""
    if recipe.ownership:
        raise SystemExit("moves_left: found a recipe with ownership, expected one without; study it in Connect Four.")
    changes = {
        "record_end": lambda env_state, metadata: jnp.int8(0),  # nothing of the last position; its distance is known
        "loss": functools.partial(_moves_left_loss, l2=recipe.l2),
        "augment": _with_records(config),
    }
    return Idea(dataclasses.replace(config, **changes), has_plane=True)


def soft_policy(recipe: tz.Recipe, config: tz.TrainConfig) -> Idea:
    """The network also learns a softer policy target, as in KataGo."""
    config = dataclasses.replace(config, loss=functools.partial(_soft_policy_loss, usual=config.loss))
    return Idea(config, network=trunks.with_another_plane)


def four_leaves(recipe: tz.Recipe, config: tz.TrainConfig) -> Idea:
    """A search evaluates four leaves at a time."""
    return Idea(dataclasses.replace(config, mcts=dataclasses.replace(config.mcts, num_leaves=4)))


def fresh_trees(recipe: tz.Recipe, config: tz.TrainConfig) -> Idea:
    """Each search of self-play begins with an empty tree."""
    return Idea(dataclasses.replace(config, mcts=dataclasses.replace(config.mcts, persist_tree=False)))


def global_pooling(recipe: tz.Recipe, config: tz.TrainConfig) -> Idea:
    """The blocks of the network see means and maxima over the whole board, as in KataGo."""
    return Idea(config, network=trunks.pooled)


def bottlenecks(recipe: tz.Recipe, config: tz.TrainConfig) -> Idea:
    """The blocks compute in half as many channels as lie between them, as in KataGo's networks."""
    return Idea(config, network=trunks.bottlenecks)


def transformer(recipe: tz.Recipe, config: tz.TrainConfig) -> Idea:
    """The blocks attend to the cells of the board instead of convolving it."""
    return Idea(config, network=trunks.transformer)


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
        "augment": _with_records(config),
    }
    openings = eqx.filter_jit(functools.partial(_openings, by_regret=by_regret))
    return Idea(dataclasses.replace(config, **changes), openings=openings)


uniform_restarts = functools.partial(_restarts, by_regret=False)
"""A quarter of the games begin in positions of the buffer, all equally likely."""

regret_restarts = functools.partial(_restarts, by_regret=True)
"""A quarter of the games begin in positions of the buffer, most often where the value target differs most from the
value that the search found. This is a simple form of Regret-Guided Search Control (arXiv 2602.20809)."""
