"""Recipes: the settings of an agent as plain numbers, and training for a given time. What the studies vary."""

import dataclasses
import functools
import math
import time
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from tz.games.env import Env
from tz.games.openings import random_starts
from tz.games.pgx_games import from_pgx
from tz.learn.replay import EpisodeReplayBuffer
from tz.learn.settings import LoopState, TrainConfig
from tz.learn.symmetries import random_dihedral, random_mirror
from tz.learn.training import az_loss
from tz.mcts.root_policies import Dirichlet
from tz.mcts.selectors import CompletedQ
from tz.mcts.settings import MCTS, gumbel_mcts
from tz.nn.networks import AZResNet
from tz.runs.checkpoints import Checkpoints
from tz.runs.loop import init_loop, train_loop
from tz.runs.seeds import train_seeds
from tz.runs.stopping import StopTraining

_SYMMETRIES = {"none": None, "mirror": random_mirror, "dihedral": random_dihedral}
_KNOWN = {"connect_four": "mirror"} | dict.fromkeys(("go_9x9", "go_19x19", "othello", "tic_tac_toe"), "dihedral")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How an agent of a pgx game learns: a network of residual blocks, Gumbel search, Adam.

    The defaults are for Connect Four on two CPU cores; `experiments/connect_four/study.py` varies them one by one.
    """

    env: str = "connect_four"
    """The game, by a name that `tz.from_pgx` knows."""
    symmetry: Literal["auto", "none", "mirror", "dihedral"] = "auto"
    """What images of the board samples are augmented with; "auto" for those that the game is known to have."""
    num_blocks: int = 3
    """Residual blocks of the network, see `tz.AZResNet`."""
    num_channels: int = 32
    """Channels of each block."""
    search_dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network is cast to in self-play and in tests; it is trained in float32 all the same."""
    norm: Literal["none", "layer", "batch"] = "none"
    """What normalises activations."""
    head_channels: int = 16
    """Channels of the policy's and of the value's head."""
    search: Literal["gumbel", "puct"] = "gumbel"
    """Gumbel search, or PUCT with Dirichlet noise."""
    num_simulations: int = 16
    """Of a move in self-play."""
    fast_simulations: int | None = None
    """Of three moves in four, which are then no targets of the policy; None for none."""
    q_scale: float | None = None
    """Of Gumbel search: `c_scale` of a [`tz.mcts.CompletedQ`][] that does not rescale `q`; None for its defaults."""
    cold_after: int | None = None
    """For PUCT: moves after which the temperature is 0.25; None for a temperature of 1 throughout."""
    num_games: int = 128
    """Played at once."""
    moves_per_epoch: int = 16
    """In each game."""
    train_batch_size: int = 512
    """Samples of a gradient step."""
    train_steps_per_epoch: int = 12
    """Gradient steps."""
    capacity: int = 500
    """Positions that the buffer keeps of each game."""
    window: float | None = 0.5
    """The fraction of all moves made, the newest, that samples are drawn from; None for the whole buffer."""
    learning_rate: float = 3e-3
    """Of Adam, at first."""
    anneal: float = 0.3
    """The fraction of the time, its last part, in which the learning rate falls to nothing like half a cosine wave."""
    weight_decay: float = 0.0
    """Apart from the gradient, as in AdamW."""
    l2: float = 1e-4
    """Weight of the sum of all squared weights in the loss."""
    td_lambda: float = 0.8
    """Of the value targets: 1 for the outcome of the game, less for a mixture with the search's values on the way."""
    search_value_fraction: float = 0.0
    """The fraction of the search's value of the position itself in its value target."""
    average_decay: float | None = None
    """Of a running average of the weights, which then plays; None for none."""
    random_starts: int = 20
    """The most random moves that a game begins with; 0 for none."""

    @functools.lru_cache(maxsize=4)  # noqa: B019, as recipes are small
    def build(self) -> tuple[TrainConfig, Env]:
        """The settings of the loop, and the game as it is played in training.

        Equal recipes build the same objects, so that what was compiled for one is there for the next.

        **Raises:** `ValueError` for a setting that one of its parts refuses.
        """
        if not 0 <= self.anneal <= 1:
            raise ValueError(f"Recipe: anneal must be from 0 (never) to 1 (from the start), found {self.anneal}.")
        symmetry = _KNOWN.get(self.env, "none") if self.symmetry == "auto" else self.symmetry
        if symmetry not in _SYMMETRIES:
            raise ValueError(f"Recipe: symmetry must be auto, {', '.join(_SYMMETRIES)}; found {symmetry!r}.")
        if self.search_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"Recipe: search_dtype must be float32 or bfloat16, found {self.search_dtype!r}.")
        env = from_pgx(self.env)
        adam = optax.inject_hyperparams(optax.adamw)(self.learning_rate, weight_decay=self.weight_decay)
        mcts, fast, window = self._search(env), self.fast_simulations, self.window
        config = TrainConfig(
            mcts=mcts,
            fast_mcts=None if fast is None else dataclasses.replace(mcts, num_simulations=fast, root=mcts.root.quiet()),
            optimizer=optax.named_chain(("clip", optax.clip_by_global_norm(1.0)), ("adam", adam)),
            replay=EpisodeReplayBuffer(self.capacity, self.td_lambda, self.search_value_fraction),
            num_games=self.num_games,
            train_batch_size=self.train_batch_size,
            warmup_moves=3 * self.moves_per_epoch,
            moves_per_epoch=self.moves_per_epoch,
            train_steps_per_epoch=self.train_steps_per_epoch,
            loss=functools.partial(az_loss, l2_reg_lambda=self.l2),
            augment=_SYMMETRIES[symmetry],
            replay_window=None if window is None else lambda moves: jnp.maximum(100, window * jnp.float32(moves)),
            average_decay=self.average_decay,
            search_dtype=None if self.search_dtype == "float32" else jnp.bfloat16,
            test_env=env,
        )
        return config, random_starts(env, self.random_starts) if self.random_starts else env

    def _search(self, env: Env) -> MCTS:
        cold, max_nodes = self.cold_after, 2 * self.num_simulations
        if self.q_scale is not None and self.q_scale <= 0:
            raise ValueError(f"Recipe: q_scale must be above 0, found {self.q_scale}.")
        if self.search == "gumbel":
            if cold is not None:
                raise ValueError(f"Recipe: Gumbel's moves have no temperature; leave cold_after None, found {cold}.")
            completed_q = CompletedQ() if self.q_scale is None else CompletedQ(c_scale=self.q_scale, rescale=False)
            return gumbel_mcts(self.num_simulations, min(16, env.num_actions), completed_q, max_nodes=max_nodes)
        if self.search != "puct":
            raise ValueError(f'Recipe: search must be "gumbel" or "puct", found {self.search!r}.')
        if self.q_scale is not None:
            raise ValueError(f"Recipe: q_scale is of Gumbel search; leave it None for PUCT, found {self.q_scale}.")
        temperature = 1.0 if cold is None else optax.piecewise_constant_schedule(1.0, {cold: 0.25})
        return MCTS(self.num_simulations, max_nodes, root=Dirichlet(), temperature=temperature)

    def start(self, config: TrainConfig, env: Env, *, seed: int, mesh: Mesh | None = None) -> LoopState:
        """A new network and new games, for [`tz.runs.train_for`][] or [`tz.train_loop`][]; `mesh` as it has it."""
        network_key, loop_key = jax.random.split(jax.random.key(seed))
        network, norm_state = eqx.nn.make_with_state(AZResNet)(
            env.observation.shape,
            env.num_actions,
            self.num_blocks,
            self.num_channels,
            self.norm,
            num_policy_channels=self.head_channels,
            num_value_channels=self.head_channels,
            key=network_key,
        )
        return init_loop(config, env, network, norm_state if self.norm == "batch" else None, key=loop_key, mesh=mesh)


def gpu_recipe(recipe: Recipe) -> Recipe:
    """A recipe for a GPU, made from one for a CPU: more games at once, a larger network, bfloat16 in self-play.

    A search of fewer games takes a GPU as long, since it waits for kernels to start and not for their work. The sizes
    were tried on one H100 with 80 GB, in Connect Four and Othello (`experiments/gpu.py`).
    """
    return dataclasses.replace(
        recipe,
        num_games=2048,
        num_simulations=32,
        num_blocks=6,
        num_channels=128,
        head_channels=32,
        search_dtype="bfloat16",
        train_batch_size=2048,
        train_steps_per_epoch=48,
        learning_rate=2e-3,
    )


def train_for(
    recipe: Recipe,
    config: TrainConfig,
    env: Env,
    state: LoopState | list[LoopState],
    *,
    seconds: float | None = None,
    num_epochs: int | None = None,
    part: tuple[float, float] = (0.0, 1.0),
    checkpoints: Checkpoints | list[Checkpoints] | None = None,
    **options: Any,
) -> Any:
    """Trains for a time, or rather, until another epoch would not fit into it; or up to a number of epochs.

    **Arguments:** `config` and `env`, from `recipe.build`, perhaps with testers; `state`, from `recipe.start` or
    `checkpoints.restore`, which is donated, or a list of the states of several seeds, for [`tz.runs.train_seeds`][];
    `seconds` or `num_epochs`, of the whole training, what was done before the state was restored included; `part`,
    which part of the time this is, as two fractions: the learning rate falls with the whole. All else goes to
    [`tz.train_loop`][] or `train_seeds`.

    **Returns:** the state after the last epoch, or a list of them.
    """
    if (seconds is None) == (num_epochs is None):
        raise ValueError(f"train_for: expected seconds or num_epochs, found {seconds=} and {num_epochs=}.")
    before = part[0] * seconds if seconds is not None else 0.0
    kept = checkpoints[0] if isinstance(checkpoints, list) else checkpoints
    begun = time.perf_counter() - max(before, kept.seconds if kept is not None else 0.0)
    first, longest, last = int((state[0] if isinstance(state, list) else state).epoch), 0.0, 0.0

    def before_epoch(state: LoopState) -> LoopState:
        nonlocal longest, last
        now, epoch = _agreed(time.perf_counter() - begun), int(jnp.max(state.epoch))
        if epoch > first + 1:  # the first is compiled
            longest = max(longest, now - last)
        last = now
        if seconds is not None:
            fraction, done = now / seconds, now + longest >= part[1] * seconds
        else:
            fraction, done = epoch / (num_epochs or 1), epoch >= (num_epochs or 0)
        if done:
            raise StopTraining
        return _with_learning_rate(state, recipe.learning_rate * annealed(recipe.anneal, fraction))

    ends = {"num_epochs": None, "before_epoch": before_epoch}
    if isinstance(state, list):
        several = checkpoints if isinstance(checkpoints, list) else ()
        return train_seeds(config, env, state, **ends, checkpoints=several, **options)
    return train_loop(config, env, state, **ends, checkpoints=kept, **options)


def annealed(part: float, fraction: float) -> float:
    """The factor of the learning rate when a fraction of the time is over: 1, and in the last part down to 0.01."""
    fallen = (fraction - (1 - part)) / part if part else 0.0
    return 0.505 + 0.495 * math.cos(math.pi * min(max(fallen, 0.0), 1.0))


def _agreed(seconds: float) -> float:
    """The time by the clock of the first process, or some would stop an epoch before the others."""
    if jax.process_count() == 1:
        return seconds
    return float(multihost_utils.broadcast_one_to_all(np.float32(seconds)))


def _with_learning_rate(state: LoopState, rate: float) -> LoopState:
    def found(state):
        return state.train.opt_state["adam"].hyperparams["learning_rate"]

    # Where the old one is committed to its devices, so is the new one, and else not: or all would be compiled again.
    new = jnp.full(found(state).shape, rate, jnp.float32)
    if found(state).committed:
        new = jax.device_put(new, found(state).sharding)
    return eqx.tree_at(found, state, new)
