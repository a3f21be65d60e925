"""The part of `gpu.py` that measures the phases of an epoch of training."""

import argparse
import collections
import dataclasses
import functools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from gpu_agents import recipe_of
from jaxtyping import Array
from timing import heading

import tz
from tz.learn.epochs import draw, gradient_phase, window_of
from tz.learn.settings import num_parts
from tz.runs.phases import collect_phase, compiled_step, step_arguments

REPETITIONS = 5
KERNELS = 8  # the number of kernels that are listed, those that take the most time


def measure_epoch(args: argparse.Namespace) -> Iterator[str]:
    """Times the phases of the recipe of Connect Four, and lists the kernels of a gradient step."""
    recipe = recipe_of("connect_four", args)
    config, env = recipe.build()
    state, first = recipe.start(config, env, seed=args.seed), 0.0
    while int(config.replay.num_known(state.replay)) == 0:  # until there is something to learn from
        (state, _), seconds = timed(functools.partial(play, config, env, state))
        first = max(first, seconds)
    yield "# The phases of an epoch\n"
    yield f"{heading('jax', 'pgx', 'equinox')} {recipe}. Medians of {REPETITIONS} runs.\n"
    yield "| phase | milliseconds an epoch | seconds of the first call, or of compilation |"
    yield "|---|---:|---:|"
    state, seconds = self_play(config, env, state)
    yield row(f"self-play, {config.num_games} games", seconds, first)
    arguments: dict[str, Any] = {}
    mesh = tz.data_mesh(jax.devices()[:1])
    number = config.train_steps_per_epoch
    for name, dtype in (("float32", None), ("bfloat16", jnp.bfloat16)):
        settings = dataclasses.replace(config, train_dtype=dtype)
        arguments[name] = step_arguments(settings, state, window_of(config, state.epoch), mesh)
        _, seconds = timed(functools.partial(steps, *arguments[name], 1))
        yield row(f"gradient steps, {name}", median_of(functools.partial(steps, *arguments[name], number)), seconds)
    phase, seconds = timed(eqx.filter_jit(functools.partial(gradient_phase, config)).lower(state).compile)
    yield row("gradient steps, float32, as a loop in one program", median_of(functools.partial(phase, state)), seconds)
    draws = functools.partial(samples, arguments["float32"][0], state.train.step)
    _, seconds = timed(functools.partial(draws, 1))
    yield row("drawing the samples alone", median_of(functools.partial(draws, number)), seconds)
    wide = dataclasses.replace(
        config, num_games=2 * config.num_games, moves_per_epoch=-(-config.moves_per_epoch // 2), warmup_moves=0
    )
    (games, _), first = timed(lambda: play(wide, env, recipe.start(wide, env, seed=args.seed)))
    yield row(f"self-play, {wide.num_games} games, half as many moves", self_play(wide, env, games)[1], first)
    yield "\n| gradient steps | kernel | kernels a step | microseconds a step |"
    yield "|---|---|---:|---:|"
    for name, (inputs, train) in arguments.items():
        copy = jax.block_until_ready(jax.tree.map(lambda x: x.copy(), train))  # a step donates the state before it
        found = kernels_of(functools.partial(compiled_step, inputs, copy))
        number, spent = sum(found.values(), start=np.zeros(2))
        yield f"| {name} | all | {number:.0f} | {spent:.0f} |"
        for kernel, (number, spent) in sorted(found.items(), key=lambda item: -item[1][1])[:KERNELS]:
            yield f"| {name} | `{kernel[:80]}` | {number:.0f} | {spent:.0f} |"


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Calls a function. Returns its result and the seconds it took."""
    begun = time.perf_counter()
    result = jax.block_until_ready(function())
    return result, time.perf_counter() - begun


def row(name: str, seconds: float, compilation: float) -> str:
    return f"| {name} | {1000 * seconds:.1f} | {compilation:.1f} |"


def play(config: tz.TrainConfig, env: tz.Env, state: Any) -> tuple[Any, dict]:
    return collect_phase(config, env, state, config.moves_per_epoch, tz.data_mesh(jax.devices()[:1]))


def self_play(config: tz.TrainConfig, env: tz.Env, state: Any) -> tuple[Any, float]:
    """Plays several epochs. Returns the last state, and the median of the seconds of an epoch."""
    times = []
    for _ in range(REPETITIONS):
        (state, _), seconds = timed(functools.partial(play, config, env, state))
        times.append(seconds)
    return state, statistics.median(times)


def steps(inputs: Any, train: Any, number: int) -> Any:
    """Makes gradient steps, as the training loop does."""
    train = jax.tree.map(lambda x: x.copy(), train)  # a step donates the state before it
    for _ in range(number):
        train = compiled_step(inputs, train)[0]
    return train


def samples(inputs: Any, step: Array, number: int) -> Array:
    """Draws the samples of gradient steps, each of which waits for the one before."""
    for _ in range(number):
        step = compiled_draw(inputs, step)
    return step


@eqx.filter_jit
def compiled_draw(inputs: Any, step: Array) -> Array:
    """Draws the samples of a gradient step. Returns the number of the next step."""
    config, replay, key, window, _ = inputs.tree()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), jnp.arange(num_parts(config, 1)))
    batch = draw(config, replay, keys, window)
    total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(batch))  # so that nothing is left out
    return step + 1 + (0 * total).astype(step.dtype)


def median_of(function: Callable[[], Any]) -> float:
    """Returns the median of the seconds of a call, after a first one."""
    function()
    return statistics.median(timed(function)[1] for _ in range(REPETITIONS))


def kernels_of(function: Callable[[], Any]) -> dict[str, np.ndarray]:
    """Returns how often each kernel ran in one call, and for how many microseconds."""
    found: dict[str, np.ndarray] = collections.defaultdict(lambda: np.zeros(2))
    for event in kernel_events(function):
        found[event.name] += [1, event.duration_ns / 1000]
    return found


def kernel_events(program: Any, *inputs: Any) -> Iterator[Any]:
    """Runs a program once, and yields the event of each kernel that ran on a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(*inputs))
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        trace = jax.profiler.ProfileData.from_file(str(path))
    for plane in trace.planes:
        for line in plane.lines if plane.name.startswith("/device:GPU") else ():
            if line.name.startswith("Stream"):
                yield from line.events
