"""The settings of the training loop, and the state that it carries from epoch to epoch."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from tz._arguments import check_fields, check_sequence
from tz.games.env import Env
from tz.learn.replay import EpisodeReplayBuffer
from tz.learn.ring import ReplayState
from tz.learn.self_play import CollectState, EndRecord, Record
from tz.learn.training import Loss, TrainState, az_loss
from tz.learn.trajectory import Sample
from tz.matches.testers import Tester
from tz.mcts.evaluators import NetworkEvaluator
from tz.mcts.settings import MCTS, on_trees_of
from tz.mcts.simulation import Evaluator


class TrainConfig(eqx.Module):
    """The settings of [`tz.train_loop`][].

    **Fields:**

    - `mcts`: the search of self-play; `fast_mcts`, a faster one for a random `fast_fraction` of the moves, see
        [`tz.collect`][].
    - `optimizer`: any optax optimiser.
    - `replay`: the buffer; its `capacity` is positions a game, `num_games * capacity` in all.
    - `num_games`: games played at once.
    - `train_batch_size`: samples a gradient step.
    - `moves_per_epoch`, `train_steps_per_epoch`: moves a game and gradient steps an epoch.
    - `warmup_moves`: moves a game before the first epoch, to fill the buffer.
    - `max_episode_moves`: a longer episode is truncated and its value bootstrapped; None lets every game end.
    - `loss`: of one sample, such as [`tz.az_loss`][].
    - `augment`: `(sample, *, key) -> sample`, applied as samples are drawn, or None.
    - `testers`: such as [`tz.TwoPlayerTester`][]; `epochs_per_test`: how often they play.
    - `test_mcts`: the agent's search in tests; by default `mcts` without noise and at temperature 0.
    - `test_env`: the game as it is played in tests, by default that of self-play. For where that one's games begin
        elsewhere, as those of [`tz.random_starts`][].
    - `replay_window`: `moves -> rows`, how many of the newest known positions of a game to draw samples from, as a
        function of the moves that were made in it; by default all that the buffer has. [`tz.train_loop`][] calls it
        with an int, [`tz.learn.epoch`][] with an array, on which it must not use `max` or `int`.
    - `average_decay`: of a running average of the weights, which then plays instead of the newest; None for none.
    - `skip_nonfinite`: what is done about a gradient step whose loss or result is not finite: True leaves it out and
        counts it (the metric `skipped_steps`), False stops the training with the state before that step.
    - `record`, `record_end`: what each sample brings to the loss beside policy and value, see [`tz.collect`][].
    - `evaluator`: `NetworkEvaluator -> evaluator`, what self-play and tests evaluate by, as a function of the
        [`tz.NetworkEvaluator`][] of the network that plays; by default that itself. One that returns a
        [`tz.mcts.ModelEvaluator`][] lets all searches step through its model, always with the newest weights. What it
        returns holds the weights as arrays of modules, such as
        `tz.mcts.ModelEvaluator(tz.mcts.Model(network.root, network.step), network.predict)`; not in a closure.
    - `search_dtype`: what the network is cast to for self-play and tests, such as `jnp.bfloat16`; None leaves it.

    **Raises:** `ValueError` if a number is out of its range or two do not fit together.
    """

    mcts: MCTS
    optimizer: optax.GradientTransformation
    replay: EpisodeReplayBuffer
    num_games: int = eqx.field(static=True)
    train_batch_size: int = eqx.field(static=True)
    moves_per_epoch: int = eqx.field(static=True)
    train_steps_per_epoch: int = eqx.field(static=True)
    warmup_moves: int = eqx.field(static=True, default=0)
    max_episode_moves: int | None = eqx.field(static=True, default=None)
    loss: Loss = az_loss
    augment: Callable[..., Sample] | None = None
    testers: Sequence[Tester] = ()
    epochs_per_test: int = eqx.field(static=True, default=1)
    test_mcts: MCTS | None = None
    test_env: Env | None = None
    fast_mcts: MCTS | None = None
    fast_fraction: float | Float[Array, ""] = 0.75
    replay_window: Callable[[Any], Any] | None = None
    average_decay: float | Float[Array, ""] | None = None
    skip_nonfinite: bool = eqx.field(static=True, default=False)
    search_dtype: Any = eqx.field(static=True, default=None)
    record: Record | None = None
    record_end: EndRecord | None = None
    evaluator: Callable[[NetworkEvaluator], Evaluator] | None = None

    def __post_init__(self):
        check_fields(self)
        check_sequence("TrainConfig", "testers", self.testers, Tester)

    def __check_init__(self):
        if self.fast_mcts is not None:
            on_trees_of(self.mcts, self.fast_mcts)
        for name in ("fast_fraction", "average_decay"):
            fraction = getattr(self, name)
            if isinstance(fraction, int | float) and not 0 <= fraction <= 1:
                raise ValueError(f"TrainConfig: {name} must be from 0 to 1, found {fraction}.")
        per_epoch = ("moves_per_epoch", "train_steps_per_epoch", "epochs_per_test")
        for name in ("num_games", "train_batch_size", *per_epoch):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainConfig: {name} must be at least 1, found {getattr(self, name)}.")
        if self.warmup_moves < 0:
            raise ValueError(f"TrainConfig: warmup_moves must be 0 or more, found {self.warmup_moves}.")
        names = [name for tester in self.testers if (name := getattr(tester, "name", None)) is not None]
        if len(set(names)) < len(names):
            raise ValueError(
                f"TrainConfig: testers need names of their own, which their metrics begin with, found {names}."
            )
        longest = max(self.moves_per_epoch, self.max_episode_moves or 0)
        if self.replay.capacity < longest:
            raise ValueError(
                f"TrainConfig: replay.capacity={self.replay.capacity} is less than an episode or a collection needs "
                f"({longest} moves a game, the larger of moves_per_epoch and max_episode_moves). Positions "
                "would be overwritten before their outcome is known; raise the capacity."
            )
        if self.max_episode_moves is not None and self.max_episode_moves < 1:
            raise ValueError(f"TrainConfig: max_episode_moves must be at least 1, found {self.max_episode_moves}.")


class LoopState(eqx.Module):
    """Everything that training carries from epoch to epoch.

    **Fields:** `train`; `games`, in progress, `[B, ...]`; `replay`, `[B, capacity, ...]`; `testers`, the state of each;
    `epoch`, the number of epochs done; `key`.
    """

    train: TrainState
    games: CollectState
    replay: ReplayState
    testers: tuple[PyTree, ...]
    epoch: Int[Array, ""]
    key: PRNGKeyArray


def num_parts(config: TrainConfig, num_devices: int) -> int:
    """Into how many parts the buffer is split for sampling: 8 where that fits, so that 1, 2, 4 and 8 devices agree."""
    return math.gcd(config.num_games, config.train_batch_size, math.lcm(8, num_devices))
