"""Compares `tz.learn.epoch` with the training loop, and several seeds in one program with one seed after another.

`python experiments/epoch.py --out experiments/results/epoch_cpu.md` measures epochs of Connect Four. The programs of a
table run alternately, and the times are medians.
"""

import argparse
import dataclasses
import pathlib
import platform
import statistics
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

import tz


class Convolutions(eqx.Module):
    """A network of four `eqx.nn.Conv2d`, such as a user may write."""

    layers: list
    policy: eqx.nn.Linear
    value: eqx.nn.Linear

    def __init__(self, *, key: jax.Array):
        *keys, policy_key, value_key = jax.random.split(key, 6)
        sizes = (2, 32, 32, 32, 32)
        self.layers = [
            eqx.nn.Conv2d(num_in, num_out, 3, padding=1, key=k)
            for num_in, num_out, k in zip(sizes[:-1], sizes[1:], keys, strict=True)
        ]
        self.policy, self.value = (eqx.nn.Linear(32 * 42, size, key=k) for size, k in ((7, policy_key), (1, value_key)))

    def __call__(self, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = observation.transpose(2, 0, 1).astype(jnp.float32)
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.policy(x.ravel()), jnp.tanh(self.value(x.ravel())[0])


def residual(*, key: jax.Array) -> tz.AZResNet:
    return tz.AZResNet((6, 7, 2), 7, 3, 32, key=key)


def arrays(state: tz.learn.LoopState) -> tz.learn.LoopState:
    """Returns a copy, since the loop donates the arrays of the state that it is given."""
    return jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, state)


def in_turns(programs: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Returns for each program the seconds of the first call, which compiles it, and the median of the others."""
    first, others = {}, {name: [] for name in programs}
    for repeat in range(repeats + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program())
            seconds = time.perf_counter() - start
            if repeat == 0:
                first[name] = seconds
            else:
                others[name].append(seconds)
    return {name: (first[name], statistics.median(others[name])) for name in programs}


def table(title: str, rows: dict[str, tuple[float, float]]) -> list[str]:
    base = next(iter(rows.values()))
    lines = [f"| {title} | first call, s | later calls, s | ratio to the first line |", "|---|---:|---:|---:|"]
    return lines + [f"| {name} | {a:.1f} | {b:.2f} | {b / base[1]:.2f} |" for name, (a, b) in rows.items()]


def epoch_of(config: tz.TrainConfig, env: tz.Env, make: Callable, repeats: int) -> list[str]:
    """Measures an epoch of the loop and of `tz.learn.epoch`; returns a table."""
    mesh = tz.data_mesh(jax.devices()[:1])
    config = dataclasses.replace(config, testers=())
    state = tz.init_loop(config, env, make(key=jax.random.key(0)), key=jax.random.key(1), mesh=mesh)
    state = tz.train_loop(config, env, state, num_epochs=1, sinks=[], progress=False, mesh=mesh)  # fills the buffer
    pure = eqx.filter_jit(tz.learn.epoch)
    loop = lambda: tz.train_loop(config, env, arrays(state), num_epochs=1, sinks=[], progress=False, mesh=mesh)
    jax.clear_caches()
    return table(make.__name__, in_turns({"`train_loop`": loop, "`epoch`": lambda: pure(config, env, state)}, repeats))


def seeds_of(config: tz.TrainConfig, env: tz.Env, repeats: int, num_seeds: int = 2) -> list[str]:
    """Measures epochs of several seeds; returns a table."""
    one = tz.data_mesh(jax.devices()[:1])
    states = [
        tz.init_loop(config, env, residual(key=jax.random.key(seed)), key=jax.random.key(seed), mesh=one)
        for seed in range(num_seeds)
    ]
    quiet = {"num_epochs": 1, "sinks": [], "progress": False}
    states = [tz.train_loop(config, env, state, **quiet, mesh=one) for state in states]
    one_by_one = lambda: [tz.train_loop(config, env, arrays(state), **quiet, mesh=one) for state in states]
    together = lambda mesh: tz.runs.train_seeds(config, env, [arrays(state) for state in states], **quiet, mesh=mesh)
    split = tz.data_mesh(jax.devices()[:num_seeds])
    return table(
        f"{num_seeds} seeds",
        in_turns(
            {
                "one by one, each on one device": one_by_one,
                "`train_seeds`, one device": lambda: together(one),
                "`train_seeds`, a device a seed": lambda: together(split),
            },
            repeats,
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 2)
    config, env = tz.Recipe("connect_four").build()
    lines = [
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, JAX {jax.__version__}, Python "
        f"{platform.python_version()}; medians of {args.repeats} alternating calls. An epoch of Connect Four by "
        "`tz.Recipe()`.",
        "",
    ]
    print("\n".join(lines), flush=True)
    for measure in (
        lambda: epoch_of(config, env, residual, args.repeats),
        lambda: epoch_of(config, env, Convolutions, args.repeats),
        lambda: seeds_of(config, env, args.repeats),
    ):
        rows = [*measure(), ""]
        print("\n".join(rows), flush=True)
        lines += rows
    text = "\n".join(lines)
    if args.out is not None:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
