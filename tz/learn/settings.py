"""The settings of the training loop, and the state that it carries from epoch to epoch."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from tz._arguments import check_fields, check_sequence, shown_settings
from tz.games.env import Env
from tz.learn.losses import Loss, az_loss
from tz.learn.replay import EpisodeReplayBuffer
from tz.learn.ring import ReplayState
from tz.learn.self_play import CollectState, EndRecord, Record
from tz.learn.training import TrainState
from tz.learn.trajectory import Sample
from tz.matches.testers import Tester
from tz.mcts.evaluators import NetworkEvaluator
from tz.mcts.settings import MCTS, on_trees_of
from tz.mcts.simulation import Evaluator


class TrainConfig(eqx.Module):
    """The settings of [`tz.train_loop`][].

    **Fields:**

    - `mcts`: the search of self-play, with at least one simulation.
    - `optimizer`: any optax optimiser.
    - `replay`: the buffer. Its `capacity` is per game, so it holds `num_games * capacity` positions.
    - `num_games`: the number of games that are played at once.
    - `train_batch_size`: the number of samples of a gradient step.
    - `moves_per_epoch`: the number of moves that an epoch plays in each game.
    - `train_steps_per_epoch`: the number of gradient steps of an epoch.
    - `warmup_moves`: the number of moves played in each game before the first epoch, to fill the buffer.
    - `max_episode_moves`: an episode of this many moves is truncated and its value bootstrapped; None, the default,
        lets every game end on its own.
    - `loss`: the loss of one sample, such as [`tz.az_loss`][].
    - `augment`: `(sample, *, key) -> sample`, applied as samples are drawn, or None.
    - `testers`: the testers that measure the network during training, such as [`tz.TwoPlayerTester`][].
    - `epochs_per_test`: the number of epochs from one test to the next.
    - `test_mcts`: the agent's search in tests; by default `mcts` without noise and at temperature 0.
    - `test_env`: the game that is played in tests; by default the game of self-play. Use it where self-play begins at
        other positions than tests should, as with [`tz.random_starts`][].
    - `fast_mcts`: a search with fewer simulations for some of the moves of self-play, see [`tz.collect`][]; or None.
    - `fast_fraction`: the probability that a move uses `fast_mcts`.
    - `replay_window`: `moves -> rows`. After `moves` moves in each game, samples are drawn only from the newest `rows`
        known positions of each game; None, the default, draws from all. [`tz.train_loop`][] calls it with an int.
        [`tz.learn.epoch`][] calls it with an array, on which Python's `max` and `int` do not work.
    - `average_decay`: the decay of a running average of the weights, which then plays instead of the newest weights;
        None, the default, keeps no average.
    - `skip_nonfinite`: decides what happens if the loss or the result of a gradient step is not finite. True skips the
        step and counts it in the metric `skipped_steps`; False, the default, stops the training with the state before
        the step.
    - `search_dtype`: the dtype that the network is cast to for self-play and tests, such as `jnp.bfloat16`; None, the
        default, casts nothing.
    - `train_dtype`: the dtype that the network is cast to in gradient steps, see `dtype` of [`tz.train_step`][]; None,
        the default, casts nothing.
    - `record`, `record_end`: functions that add data to a sample for the loss, see [`tz.collect`][].
    - `evaluator`: `NetworkEvaluator -> evaluator`, makes the evaluator of self-play and tests from the
        [`tz.NetworkEvaluator`][] of the network that plays. By default, the `NetworkEvaluator` itself is used. If the
        result is a [`tz.mcts.ModelEvaluator`][], all searches step through its model, always with the newest weights.
        The result must hold the weights as arrays of modules and not in a closure, as in
        `tz.mcts.ModelEvaluator(tz.mcts.Model(network.root, network.step), network.predict)`.

    **Raises:** `ValueError` if a number is out of its range or two numbers do not fit together.
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
    train_dtype: Any = eqx.field(static=True, default=None)
    record: Record | None = None
    record_end: EndRecord | None = None
    evaluator: Callable[[NetworkEvaluator], Evaluator] | None = None

    def __post_init__(self):
        check_fields(self)
        check_sequence("TrainConfig", "testers", self.testers, Tester)

    def __check_init__(self):
        if self.mcts.num_simulations == 0:
            raise ValueError(
                "TrainConfig: found mcts.num_simulations=0, expected at least 1, since a policy learns nothing from "
                "targets that are the policy itself; raise it."
            )
        if self.fast_mcts is not None:
            on_trees_of(self.mcts, self.fast_mcts)
        for name in ("fast_fraction", "average_decay"):
            fraction = getattr(self, name)
            if isinstance(fraction, int | float) and not 0 <= fraction <= 1:
                raise ValueError(f"TrainConfig: found {name}={fraction}, expected from 0 to 1; give a fraction.")
        per_epoch = ("moves_per_epoch", "train_steps_per_epoch", "epochs_per_test")
        for name in ("num_games", "train_batch_size", *per_epoch):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainConfig: found {name}={getattr(self, name)}, expected at least 1; raise it.")
        if self.warmup_moves < 0:
            raise ValueError(
                f"TrainConfig: found warmup_moves={self.warmup_moves}, expected 0 or more; give 0 for no warm-up."
            )
        names = [name for tester in self.testers if (name := getattr(tester, "name", None)) is not None]
        if len(set(names)) < len(names):
            raise ValueError(
                f"TrainConfig: found testers with the names {names}, expected different names, as their metrics begin "
                "with them; give each tester its own name."
            )
        longest = self.moves_per_epoch + (self.max_episode_moves or 1) - 1
        if self.replay.capacity < longest:
            raise ValueError(
                f"TrainConfig: found replay.capacity={self.replay.capacity}, expected at least {longest}, the moves of "
                "an episode and of an epoch together, as positions would be overwritten before their outcome is "
                "known; raise the capacity (for a saved run, in a fork of it)."
            )
        if self.max_episode_moves is not None and self.max_episode_moves < 1:
            raise ValueError(
                f"TrainConfig: found max_episode_moves={self.max_episode_moves}, expected at least 1; raise it, or "
                "give None to let every game end on its own."
            )

    def __repr__(self) -> str:
        """Shows the settings that differ from their defaults."""
        return shown_settings(self)


class LoopState(eqx.Module):
    """The state that training carries from epoch to epoch.

    **Fields:**

    - `train`: the network and its optimiser.
    - `games`: `[B, ...]`, the games in progress.
    - `replay`: `[B, capacity, ...]`, the rings of all games.
    - `testers`: the state of each tester.
    - `epoch`: the number of epochs done.
    - `key`: the random key of gradient steps, tests and fast moves. It never changes: the number of the step, epoch or
        move is folded into it.
    """

    train: TrainState
    games: CollectState
    replay: ReplayState
    testers: tuple[PyTree, ...]
    epoch: Int[Array, ""]
    key: PRNGKeyArray


def num_parts(config: TrainConfig, num_devices: int) -> int:
    """Returns the number of parts that the buffer is split into for sampling.

    If the numbers of games and samples are multiples of 8, it is 8 for 1, 2, 4 and 8 devices, so all of these draw the
    same samples.
    """
    return math.gcd(config.num_games, config.train_batch_size, math.lcm(8, num_devices))
