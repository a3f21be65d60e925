"""Measures the cost of training on several devices: time on the same cores, compilation, and bytes sent.

    python experiments/scaling.py --out experiments/results/scaling_cpu.md

On a CPU the devices are simulated and share the cores, so two devices against one show the overhead alone. On GPUs the
same script compares real devices.
"""

import argparse
import re
import statistics
import time
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import optax
from timing import heading

import tz
from tz.learn.epochs import self_play_settings
from tz.learn.new_games import evaluator_of
from tz.runs import phases


def settings(blocks: int, channels: int, num_games: int, train_batch_size: int):
    env = tz.from_pgx("othello")
    network = tz.AZResNet(env.observation.shape, env.num_actions, blocks, channels, "layer", key=jax.random.key(0))
    config = tz.TrainConfig(
        mcts=tz.MCTS(num_simulations=16),
        optimizer=optax.adam(1e-3),
        replay=tz.EpisodeReplayBuffer(capacity=200),
        num_games=num_games,
        train_batch_size=train_batch_size,
        moves_per_epoch=8,
        train_steps_per_epoch=8,
        max_episode_moves=8,  # so that games end, and training has samples, in the first epoch
    )
    return env, network, config


def programs(env, network, config, mesh):
    """Returns the compiled programs of self-play and of a gradient step, as text, and their seconds of compilation."""
    jax.clear_caches()
    state = tz.init_loop(config, env, network, key=jax.random.key(1), mesh=mesh)
    evaluator = evaluator_of(config, env, state.train)
    steps = config.moves_per_epoch
    found = []
    for function, inputs in (
        (phases.compiled_play, ((self_play_settings(config), env, evaluator, None, steps, mesh), state.games)),
        (phases.compiled_step, phases.step_arguments(config, state, None, mesh)),
    ):
        start = time.perf_counter()
        compiled = function.lower(*inputs).compile().compiled
        found.append((compiled.as_text(), time.perf_counter() - start))
    return found


def communicated_bytes(text: str) -> int:
    """Returns the bytes of the results of all collectives in a compiled program, each counted once."""
    size, names = 0, "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    for result in re.findall(rf"= (.*?) (?:{names})[.\w-]*\(", text):
        for kind, bits, shape in re.findall(r"\b(f|s|u|bf)(\d+)\[([\d,]*)\]", result):
            del kind
            size += int(bits) // 8 * int(np.prod([int(n) for n in shape.split(",") if n]))
    return size


def seconds_of_phases(env, network, config, meshes, repeats: int) -> list[tuple[float, float]]:
    """Returns the median seconds of a self-play and a training phase on each mesh, which run alternately."""
    states = [tz.init_loop(config, env, network, key=jax.random.key(1), mesh=mesh) for mesh in meshes]
    times = [([], []) for _ in meshes]
    for repeat in range(repeats + 1):
        for index, mesh in enumerate(meshes):
            start = time.perf_counter()
            state, _ = phases.collect_phase(config, env, states[index], config.moves_per_epoch, mesh)
            middle = time.perf_counter()
            states[index], _ = phases.train_phase(config, state, mesh)
            if repeat > 0:  # the first compiles
                times[index][0].append(middle - start)
                times[index][1].append(time.perf_counter() - middle)
    return [(statistics.median(collect), statistics.median(train)) for collect, train in times]


def departures(env, network, config, num_games: int, num_moves: int, sizes: list[int]) -> list[float]:
    """Returns the fraction of games in which a move differs from one device, for each number of devices."""

    def play(shared, keys):
        mcts, env, evaluator = shared
        games = jax.vmap(lambda key: tz.init_collect(mcts, env, key=key))(keys)
        return jax.vmap(lambda game: tz.collect(mcts, env, evaluator, game, num_moves=num_moves)[1].action)(games)

    keys = jax.random.split(jax.random.key(2), num_games)
    shared = config.mcts, env, tz.NetworkEvaluator(network, env.observe)
    run = lambda size: np.asarray(eqx.filter_jit(tz.over_games)(tz.data_mesh(jax.devices()[:size]), play, shared, keys))
    one = run(1)
    return [float((run(size) != one).any(axis=1).mean()) for size in sizes]


def estimate(blocks: int, channels: int) -> list[str]:
    """Estimates the seconds of an epoch on many GPUs, from the size of a network and assumed speeds of hardware."""
    flops_a_second, within, between, hop = 50e12, 450e9, 50e9, 10e-6  # of a GPU; bytes a second in and between machines
    games, moves, simulations, batch, reuse = 1024, 64, 100, 4096, 4  # games a GPU; each position is trained on 4 times
    env = tz.from_pgx("othello")
    network = tz.AZResNet(env.observation.shape, env.num_actions, blocks, channels, "layer", key=jax.random.key(0))
    size = 4 * sum(x.size for x in jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)))
    arrays, static = eqx.partition(network, eqx.is_array)
    forward = jax.jit(lambda arrays, observation: eqx.combine(arrays, static)(observation))
    flops = forward.lower(arrays, env.observation).compile().cost_analysis()["flops"]
    lines = [
        f"A {blocks}x{channels} network of Othello: {size / 1e6:.1f} MB of gradients, {flops / 1e9:.2f} GFLOP an "
        "evaluation (XLA's count), three times that for a gradient. Assumed, not measured: "
        f"{flops_a_second / 1e12:.0f} TFLOP/s a GPU in use; {within / 1e9:.0f} GB/s between the 8 GPUs of a machine, "
        f"{between / 1e9:.0f} GB/s a GPU between machines; {hop * 1e6:.0f} us for each of the log2(n) hops there and "
        f"back; {games} games a GPU, {moves} moves an epoch, {simulations} simulations, every position trained on "
        f"{reuse} times.",
        "",
        f"| GPUs | self-play, s | gradients, s | all-reduce, s, batch {batch:,} | batch {batch // 8:,} a GPU |",
        "|---:|---:|---:|---:|---:|",
    ]
    for number in (8, 64, 512):
        self_play = games * moves * simulations * flops / flops_a_second
        samples = reuse * games * moves * number
        gradients = 3 * samples * flops / flops_a_second / number
        one = 2 * size * (number - 1) / number / (within if number <= 8 else between) + 2 * np.log2(number) * hop
        reduced = [samples / size_of_batch * one for size_of_batch in (batch, batch // 8 * number)]
        lines.append(f"| {number} | {self_play:.1f} | {gradients:.1f} | {reduced[0]:.2f} | {reduced[1]:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu-devices", type=int, default=8, help="simulated devices, if there is no GPU")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write the tables to this Markdown file")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", arguments.cpu_devices)
    sizes = [size for size in (1, 2, 4, 8) if size <= jax.device_count()]
    meshes = [tz.data_mesh(jax.devices()[:size]) for size in sizes]
    lines = ["# Several devices", "", f"{heading('jax', 'pgx', 'equinox')} Othello, 16 simulations.", ""]

    env, network, config = settings(4, 32, num_games=64, train_batch_size=256)
    times = seconds_of_phases(env, network, config, meshes[:2], arguments.repeats)
    ratios = [one / two for one, two in zip(*times, strict=True)]
    lines += [
        "## One device against two",
        "",
        "64 games, 4x32 network, batches of 256. On a CPU both have the same cores. Time on one device over two:",
        "",
        f"Self-play {ratios[0]:.2f}, training {ratios[1]:.2f}.",
        "",
        "## Compilation and communication",
        "",
        "| devices | self-play, compile s | gradient step, compile s | self-play, bytes | gradient step, bytes |",
        "|---:|---:|---:|---:|---:|",
    ]
    for size, mesh in zip(sizes, meshes, strict=True):
        (collect, collect_seconds), (learn, learn_seconds) = programs(env, network, config, mesh)
        lines.append(
            f"| {size} | {collect_seconds:.1f} | {learn_seconds:.1f} | {communicated_bytes(collect):,} "
            f"| {communicated_bytes(learn):,} |"
        )
    num_parameters = sum(x.size for x in jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)))
    shares = departures(env, network, config, 256, 60, sizes[1:])
    lines += [
        "",
        f"The network has {num_parameters:,} parameters of 4 bytes.",
        "",
        "## How often rounding changes a game",
        "",
        "Fraction of 256 games of 60 moves in which a move differs from the game on one device: "
        + ", ".join(f"{share:.3f} on {size}" for size, share in zip(sizes[1:], shares, strict=True))
        + ".",
        "",
        "## An estimate for 8, 64 and 512 GPUs",
        "",
        *estimate(6, 128),
        "",
        "Self-play communicates nothing and takes most of the time. The all-reduce grows with the number of GPUs: with "
        "a fixed size of the batch, more positions need more gradient steps, and each step waits for all devices while "
        "its own arithmetic shrinks. It is the first limit; a batch that grows with the devices, and a learning rate "
        "that follows, removes it. The next limit is the alternation of phases: every epoch waits for the slowest "
        "device twice, and testers of a few hundred games leave most devices idle. Beyond some hundred GPUs, self-play "
        "and learning would have to run side by side and exchange weights and positions.",
    ]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
