"""Trains for a given time, with a learning rate that falls in the last part of it."""

import math
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from tz.games.env import Env
from tz.learn.settings import LoopState, TrainConfig
from tz.runs._optimizers import is_of_recipe, with_learning_rate
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
    """Trains for a given time or number of epochs, with the learning rate of the recipe.

    With a time, it stops when another epoch would probably end too late. The learning rate is constant at first. It
    falls in the last part of the training, whose length is set by `anneal` of the recipe.

    **Arguments:**

    - `recipe`: the recipe, for its learning rate.
    - `config`, `env`: from `recipe.build`, possibly with testers added to `config`. With another optimiser in `config`,
        its own learning rate holds.
    - `state`: from `recipe.start` or `checkpoints.restore`, or a list of the states of several seeds, which
        [`tz.runs.train_seeds`][] trains. Games and buffer are donated.
    - `seconds`, `num_epochs`: the length of the whole training, including what was done before the state was restored.
        Give one of the two.
    - `part`: the part of the training that this call does, as two fractions of `seconds` or `num_epochs`. The learning
        rate depends on the whole length, so a call with `(0.0, 0.5)` and then one with `(0.5, 1.0)` make one training.
    - `checkpoints`: as in [`tz.train_loop`][]; for several seeds, a list with one for each.
    - `**options`: further arguments of [`tz.train_loop`][] or [`tz.runs.train_seeds`][], such as `sinks`.

    **Returns:** the state after the last epoch, or the list of states.

    **Raises:** `ValueError` unless one of `seconds` and `num_epochs` is given, and where [`tz.train_loop`][] does.
    """
    if (seconds is None) == (num_epochs is None):
        raise ValueError(
            f"train_for: found {seconds=} and {num_epochs=}, expected one of the two; give seconds or num_epochs."
        )
    before = part[0] * seconds if seconds is not None else 0.0
    kept = checkpoints if isinstance(checkpoints, list) else [checkpoints] if checkpoints is not None else []
    begun = time.perf_counter() - max([before, *(one.seconds for one in kept)])
    clock = _EpochClock(config.epochs_per_test if config.testers else None)

    def before_epoch(state: LoopState) -> LoopState:
        now, epoch = _agreed(time.perf_counter() - begun), int(jnp.max(state.epoch))
        clock.note(epoch, now)
        for one in kept:  # so that saved times include the warm-up, which belongs to no epoch
            one.seconds = now
        if seconds is not None:
            fraction, done = now / seconds, now + clock.expected(epoch) >= part[1] * seconds
        else:
            fraction, done = epoch / (num_epochs or 1), epoch >= round(part[1] * (num_epochs or 0))
        if done:
            raise StopTraining
        if not is_of_recipe(state):  # another optimiser of the user's choice
            return state
        return with_learning_rate(state, recipe.learning_rate * annealed(recipe.anneal, fraction))

    ends = {"num_epochs": None, "before_epoch": before_epoch}
    if isinstance(state, list):
        return train_seeds(config, env, state, **ends, checkpoints=kept, **options)
    return train_loop(config, env, state, **ends, checkpoints=kept[0] if kept else None, **options)


class _EpochClock:
    """Predicts the time of the next epoch from the epochs before it. Epochs with a test are counted separately.

    The first epoch and the first test include their compilation and take far longer, so they are left out.

    **Arguments:** `epochs_per_test`, None without tests.
    """

    def __init__(self, epochs_per_test: int | None):
        self._per_test = epochs_per_test
        self._seconds: dict[bool, list[float]] = {False: [], True: []}
        self._last: tuple[int, float] | None = None

    def _has_test(self, epoch: int) -> bool:
        return self._per_test is not None and (epoch + 1) % self._per_test == 0

    def note(self, epoch: int, now: float) -> None:
        """Notes the time at which an epoch begins, and so the length of the previous epoch."""
        if self._last is not None:
            before, begun = self._last
            self._seconds[self._has_test(before)].append(now - begun)
        self._last = epoch, now

    def expected(self, epoch: int) -> float:
        """Returns the seconds that an epoch will probably take; 0 if nothing is known yet."""
        plain, tested = (self._typical(self._seconds[kind]) for kind in (False, True))
        return max(plain, tested) if self._has_test(epoch) else plain or tested

    @staticmethod
    def _typical(seconds: list[float]) -> float:
        return statistics.median(seconds[1:][-9:]) if len(seconds) > 1 else 0.0


def annealed(part: float, fraction: float) -> float:
    """Returns the factor of the learning rate after a fraction of the time: 1, falling to 0.01 in the last `part`."""
    fallen = (fraction - (1 - part)) / part if part else 0.0
    return 0.505 + 0.495 * math.cos(math.pi * min(max(fallen, 0.0), 1.0))


def _agreed(seconds: float) -> float:
    """Returns the time of the first process, since all processes must stop after the same epoch."""
    if jax.process_count() == 1:
        return seconds
    return float(multihost_utils.broadcast_one_to_all(np.float32(seconds)))
