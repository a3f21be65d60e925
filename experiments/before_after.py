"""Compares the speed of two versions: `python experiments/before_after.py --before ../tz-before --rounds 3`.

The same programs of Connect Four run with the other checkout of tz and with this one, alternately, each time in a new
process. A table has the seconds of compilation and the CPU seconds of a call, with their ratios.
"""

import argparse
import dataclasses
import inspect
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import tz

HERE = pathlib.Path(__file__).resolve()
NUM_GAMES, NUM_MOVES, BATCH = 128, 16, 512
STEPS = "100 gradient steps of the training loop, 8 samples, a network of 1 block of 4 channels"


def programs() -> dict[str, tuple]:
    """Returns the programs to measure, by name: a function and its arguments."""
    env = tz.from_pgx("connect_four")
    network = tz.AZResNet(env.observation.shape, env.num_actions, 3, 32, key=jax.random.key(0))
    evaluator = tz.NetworkEvaluator(network, env.observe)
    keys = jax.random.split(jax.random.key(1), NUM_GAMES)
    puct = tz.MCTS(32, 64, root=tz.Dirichlet(), persist_tree=True)
    gumbel = tz.gumbel_mcts(16, 7, max_nodes=32)
    # Earlier versions called the argument `num_steps`.
    length = "num_moves" if "num_moves" in inspect.signature(tz.collect).parameters else "num_steps"
    trees = jax.vmap(lambda key: tz.init_search(puct, *env.init(key)))(keys)
    games = jax.vmap(lambda key: tz.init_collect(gumbel, env, key=key))(keys)
    play = jax.vmap(lambda evaluator, game: tz.collect(gumbel, env, evaluator, game, **{length: NUM_MOVES}), (None, 0))
    find = jax.vmap(lambda evaluator, tree, key: tz.search(puct, env, evaluator, tree, key=key), (None, 0, 0))
    replay = tz.EpisodeReplayBuffer(200, td_lambda=0.8)
    moves = eqx.filter_eval_shape(play, evaluator, games)[1]
    moves = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), moves)
    rings = jax.vmap(replay.init)(moves)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    policy = jnp.full((BATCH, env.num_actions), 1 / env.num_actions)
    ones = jnp.ones(BATCH)
    observations = jnp.zeros((BATCH, *env.observation.shape), env.observation.dtype)
    batch = tz.Sample(observations, policy > 0, policy, 0 * ones, ones, ones)
    return {
        f"search, PUCT, 32 simulations, {NUM_GAMES} games": (find, evaluator, trees, keys),
        f"collect, Gumbel, 16 simulations, {NUM_MOVES} moves, {NUM_GAMES} games": (play, evaluator, games),
        f"add, {NUM_MOVES} moves, {NUM_GAMES} games": (
            jax.vmap(lambda ring, moves: replay.add(ring, moves, discount=1.0)),
            rings,
            moves,
        ),
        f"train_step, {BATCH} samples": (
            lambda state, batch: tz.train_step(optimizer, tz.az_loss, state, batch),
            tz.init_train(optimizer, network),
            batch,
        ),
    }


def small_steps() -> tuple[float, float]:
    """Returns the seconds of the first gradient step of the training loop, and the fewest CPU seconds of a hundred.

    The network and the batch are so small that most of the time is spent on calling the compiled step.
    """
    from tz.runs import phases  # not in the oldest versions

    sizes = {"num_games": 8, "moves_per_epoch": 42, "train_batch_size": 8, "num_blocks": 1, "num_channels": 4}
    recipe = tz.Recipe(train_steps_per_epoch=100, random_starts=0, **sizes)
    config, env = recipe.build()
    mesh, state = tz.data_mesh(jax.devices()[:1]), recipe.start(config, env, seed=0)
    state, _ = phases.collect_phase(config, env, state, 42, mesh)  # whole games, so that there are samples
    start = time.perf_counter()
    phases.train_phase(dataclasses.replace(config, train_steps_per_epoch=1), state, mesh)
    seconds, calls = time.perf_counter() - start, []
    for _ in range(7):
        begun = time.process_time()
        phases.train_phase(config, state, mesh)
        calls.append(time.process_time() - begun)
    return seconds, min(calls)


def measure(only: list[str]) -> dict[str, tuple[float, float]]:
    """Returns for each program the seconds of compilation, and the fewest CPU seconds that a call took."""
    found = {}
    if not only or any(part in STEPS for part in only):
        found[STEPS] = small_steps()
    for name, (function, *inputs) in programs().items():
        if only and not any(part in name for part in only):
            continue
        start = time.perf_counter()
        compiled = eqx.filter_jit(function).lower(*inputs).compile()
        seconds, calls = time.perf_counter() - start, []
        for _ in range(7):
            begun = time.process_time()
            jax.block_until_ready(eqx.filter(compiled(*inputs), eqx.is_array))
            calls.append(time.process_time() - begun)
        found[name] = seconds, min(calls[1:])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=pathlib.Path, help="the other checkout; without it, only this one is measured")
    parser.add_argument("--rounds", type=int, default=3, help="how often each checkout runs")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of the programs to measure")
    parser.add_argument("--out", type=pathlib.Path, help="write the table to this Markdown file")
    args = parser.parse_args()
    if args.before is None:
        print(json.dumps(measure(args.only)))
        return
    folders, runs = {"before": args.before.resolve(), "after": HERE.parents[1]}, {"before": [], "after": []}
    for _ in range(args.rounds):
        for name, folder in folders.items():
            environment = os.environ | {"PYTHONPATH": str(folder)}
            command = [sys.executable, "-W", "ignore", str(HERE), "--only", *args.only]
            result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            runs[name].append(json.loads(result.stdout.splitlines()[-1]))
    describe = ["git", "describe", "--always"]
    commits = {name: subprocess.run(describe, cwd=x, capture_output=True, text=True) for name, x in folders.items()}
    lines = [
        f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, Python {platform.python_version()}; before is commit "
        f"{commits['before'].stdout.strip()}, after is {commits['after'].stdout.strip()}; medians of {args.rounds} "
        "rounds.",
        "",
        "| program | compilation before, s | after | ratio | call before, CPU s | after | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in runs["before"][0]:
        cells = []
        for index, digits in ((0, 1), (1, 4)):
            before, after = (statistics.median(run[name][index] for run in runs[x]) for x in ("before", "after"))
            cells += [f"{before:.{digits}f}", f"{after:.{digits}f}", f"{after / before:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out is not None:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
