"""Training for a given time, in whose last part the learning rate falls."""

import math
import statistics
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from tz.games.env import Env
from tz.learn.settings import LoopState, TrainConfig
from tz.runs.checkpoints import Checkpoints
from tz.runs.loop import train_loop
from tz.runs.recipes import Recipe
from tz.runs.seeds import train_seeds
from tz.runs.stopping import StopTraining


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
    kept = checkpoints if isinstance(checkpoints, list) else [checkpoints] if checkpoints is not None else []
    begun = time.perf_counter() - max([before, *(one.seconds for one in kept)])
    clock = _EpochClock(config.epochs_per_test if config.testers else None)

    def before_epoch(state: LoopState) -> LoopState:
        now, epoch = _agreed(time.perf_counter() - begun), int(jnp.max(state.epoch))
        clock.note(epoch, now)
        for one in kept:  # what is saved counts the warm-up as well, which belongs to no epoch
            one.seconds = now
        if seconds is not None:
            fraction, done = now / seconds, now + clock.expected(epoch) >= part[1] * seconds
        else:
            fraction, done = epoch / (num_epochs or 1), epoch >= (num_epochs or 0)
        if done:
            raise StopTraining
        return _with_learning_rate(state, recipe.learning_rate * annealed(recipe.anneal, fraction))

    ends = {"num_epochs": None, "before_epoch": before_epoch}
    if isinstance(state, list):
        return train_seeds(config, env, state, **ends, checkpoints=kept, **options)
    return train_loop(config, env, state, **ends, checkpoints=kept[0] if kept else None, **options)


class _EpochClock:
    """How long the next epoch will probably take: as long as those before it, with a test if it has one.

    The first epoch of a loop and the first test are compiled, which takes far longer and comes once. They do not count.

    **Arguments:** `epochs_per_test`, None without tests.
    """

    def __init__(self, epochs_per_test: int | None):
        self._per_test = epochs_per_test
        self._seconds: dict[bool, list[float]] = {False: [], True: []}
        self._last: tuple[int, float] | None = None

    def _has_test(self, epoch: int) -> bool:
        return self._per_test is not None and (epoch + 1) % self._per_test == 0

    def note(self, epoch: int, now: float) -> None:
        """Takes the time at which an epoch begins, and with it the length of the one before."""
        if self._last is not None:
            before, begun = self._last
            self._seconds[self._has_test(before)].append(now - begun)
        self._last = epoch, now

    def expected(self, epoch: int) -> float:
        """The seconds that an epoch will probably take; 0 where nothing is known yet."""
        plain, tested = (self._typical(self._seconds[kind]) for kind in (False, True))
        return max(plain, tested) if self._has_test(epoch) else plain or tested

    @staticmethod
    def _typical(seconds: list[float]) -> float:
        return statistics.median(seconds[1:][-9:]) if len(seconds) > 1 else 0.0


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
