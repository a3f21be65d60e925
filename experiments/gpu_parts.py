"""The parts of `gpu.py`, which runs each of them in its own process."""

import argparse
import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import pathlib
import re
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pgx
from bench_search import mctx_search, network_alone, positions, steps_alone, tz_search
from gpu_agents import board_game, connect_four, jax_flags
from gpu_epoch import kernel_events, measure_epoch
from profile_search import part_of
from timing import heading

import tz

SECONDS = 3.0  # of repetitions in one measurement


class Cell(NamedTuple):
    """A game, the size of its search, and an evaluator. The programs of one cell are timed together."""

    game: str
    num_games: int
    num_simulations: int
    network: str | None = None
    dtype: Any = jnp.float32
    max_actions: int | None = None

    def __str__(self) -> str:
        evaluator = "constant" if self.network is None else f"{self.network} {jnp.dtype(self.dtype).name}"
        kept = "" if self.max_actions is None else f", {self.max_actions} actions kept"
        return f"| {self.game} | {self.num_games}x{self.num_simulations}{kept} | {evaluator} "


def cells(tiny: bool, sizes: list[str]) -> list[Cell]:
    if tiny:
        return [Cell("tic_tac_toe", 4, 4), Cell("tic_tac_toe", 4, 4, "1x8", jnp.bfloat16)]
    wanted = [tuple(map(int, size.split("x"))) for size in sizes] or [(1024, 32), (1024, 128), (4096, 32), (128, 400)]
    found = []
    for num_games, num_simulations in wanted:
        if (num_games, num_simulations) == (
            128,
            400,
        ):  # a size at which mctx is known to spend most of its time on the tree
            for kept in (None, 64, 128):
                found.append(Cell("go_19x19", 128, 400, "8x128", jnp.bfloat16, kept))
            continue
        found.append(Cell("othello", num_games, num_simulations))
        found += [Cell("othello", num_games, num_simulations, "6x128", dtype) for dtype in (jnp.bfloat16, jnp.float32)]
    return found


def contenders(cell: Cell) -> dict[str, tuple[Any, tuple]]:
    """Returns the programs of a cell by name, each a function and its inputs."""
    env, game = tz.from_pgx(cell.game), pgx.make(cell.game)  # pyright: ignore[reportArgumentType]
    inputs = (*positions(env, cell.num_games), jax.random.key(2))
    settings = {"max_nodes": cell.num_simulations + 1, "persist_tree": False, "max_actions": cell.max_actions}
    if cell.network is None:
        evaluator, alone = tz.uniform_evaluator, ("`env.step` alone", functools.partial(steps_alone, env))
    else:
        blocks, channels = map(int, cell.network.split("x"))
        network = tz.AZResNet(env.observation.shape, env.num_actions, blocks, channels, key=jax.random.key(1))
        evaluator = tz.NetworkEvaluator(network, env.observe, dtype=cell.dtype)
        alone = "the network alone", functools.partial(network_alone_in, cell.dtype, env, evaluator)
    searches = {
        "tz, PUCT": tz.MCTS(cell.num_simulations, root=tz.PlainRoot(), **settings),
        "tz, Gumbel": tz.gumbel_mcts(cell.num_simulations, **settings),
    }
    found = {name: (functools.partial(tz_search, mcts, env, evaluator), inputs) for name, mcts in searches.items()}
    if cell.max_actions is None:  # mctx has no such setting, and it does not change the network
        peer = functools.partial(mctx_search, game, env, evaluator, mctx.gumbel_muzero_policy, cell.num_simulations)
        found["mctx, gumbel_muzero_policy"] = peer, inputs
        found[alone[0]] = functools.partial(alone[1], cell.num_simulations), inputs
    return found


def network_alone_in(dtype: Any, env: tz.Env, evaluator: Any, num_calls: int, states, metadata, key):
    """Runs the network alone. The evaluator would cast the observations, so here they are cast beforehand."""
    cast = dataclasses.replace(env, observe=lambda state: env.observe(state).astype(dtype))
    return network_alone(cast, evaluator, num_calls, states, metadata, key)


def measure_speed(args: argparse.Namespace) -> Iterator[str]:
    """Yields the lines of the table as they are measured. All programs are compiled first, in parallel."""
    graphs = "with loops as CUDA graphs" if "command_buffer" in str(jax_flags()) else "with XLA's defaults"
    yield f"# Simulations a second against mctx, {graphs}\n"
    yield (
        f"{heading('jax', 'mctx', 'pgx', 'equinox')} Medians of alternating runs, all games together; steps or "
        "evaluations for the rows that end in `alone`. tz / this: the Gumbel search of tz over this one.\n"
    )
    yield "| game | games x simulations | evaluator | what | per second | tz / this | runs | bits of the result |"
    yield "|---|---|---|---|---:|---:|---:|---|"

    def prepare(function, inputs):
        compiled = jax.jit(function).lower(*inputs).compile()
        return compiled, inputs

    chosen = cells(args.tiny, args.cells)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = [{name: pool.submit(prepare, *what) for name, what in contenders(cell).items()} for cell in chosen]
        ready = [{name: future.result() for name, future in one.items()} for one in waiting]
    for cell, programs in zip(chosen, ready, strict=True):
        times: dict[str, list[float]] = {name: [] for name in programs}
        bits = {name: digest(program(*inputs)) for name, (program, inputs) in programs.items()}
        begun = time.perf_counter()
        while len(times["tz, Gumbel"]) < 3 or time.perf_counter() - begun < (0 if args.tiny else SECONDS):
            for name, (program, inputs) in programs.items():
                start = time.perf_counter()
                jax.block_until_ready(program(*inputs))
                times[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(record) for name, record in times.items()}
        for name, median in medians.items():
            rate = cell.num_games * cell.num_simulations / median
            ratio = median / medians["tz, Gumbel"]
            yield f"{cell}| {name} | {rate:,.0f} | {ratio:.2f} | {len(times[name])} | {bits[name]} |"


def digest(result: Any) -> str:
    """Returns eight digits that differ if any bit of the result does."""
    arrays = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(result)]
    return hashlib.sha256(b"".join(arrays)).hexdigest()[:8]


def count_kernels(args: argparse.Namespace) -> Iterator[str]:
    """Counts the kernels of a simulation and their time, from the trace of one search."""
    num_games, num_simulations, game = (4, 4, "tic_tac_toe") if args.tiny else (1024, 32, "othello")
    env = tz.from_pgx(game)
    inputs = (*positions(env, num_games), jax.random.key(0))
    yield "# Kernels of a simulation\n"
    yield f"{heading('jax', 'pgx')} {game}, {num_games} games, {num_simulations} simulations, constant evaluator.\n"
    yield "| search | part | kernels a simulation | microseconds a simulation |"
    yield "|---|---|---:|---:|"
    settings = {"max_nodes": num_simulations + 1, "persist_tree": False}
    searches = {
        "PUCT": tz.MCTS(num_simulations, root=tz.PlainRoot(), **settings),
        "Gumbel": tz.gumbel_mcts(num_simulations, **settings),
    }
    for name, mcts in searches.items():
        program = jax.jit(functools.partial(tz_search, mcts, env, tz.uniform_evaluator)).lower(*inputs).compile()
        jax.block_until_ready(program(*inputs))
        text = program.as_text() or ""
        source = dict(re.findall(r'^\s*(?:ROOT )?%([\w.-]+) = .*op_name="([^"]*)"', text, flags=re.MULTILINE))
        kernels: collections.Counter[str] = collections.Counter()
        microseconds: collections.defaultdict[str, float] = collections.defaultdict(float)
        for event in kernel_events(program, *inputs):
            operation = str(dict(event.stats).get("hlo_op", event.name))
            # Operations that XLA adds, such as copies, have no source, so their own names are shown.
            part = part_of(source[operation]) if operation in source else f"`{re.sub(r'[._]?[0-9]+', '', operation)}`"
            kernels[part] += 1
            microseconds[part] += event.duration_ns / 1000
        for part, number in [("all", kernels.total()), *kernels.most_common()]:
            spent = sum(microseconds.values()) if part == "all" else microseconds[part]
            yield f"| {name} | {part} | {number / num_simulations:.1f} | {spent / num_simulations:.1f} |"


def measure_leaves(args: argparse.Namespace) -> Iterator[str]:
    """Measures the speed for several leaves a step, and the score against one leaf a step in the same time."""
    env, own = tz.from_pgx("connect_four"), args.out / "connect_four.tz"
    num_games, num_simulations = (4, 8) if args.tiny else (1024, 64)
    evaluator = tz.load_agent(own if own.exists() else "connect_four").evaluator
    evaluator = tz.NetworkEvaluator(evaluator.network, env.observe, evaluator.norm_state, dtype=jnp.bfloat16)
    inputs = (*positions(env, num_games), jax.random.key(2))
    yield "# Leaves evaluated together, in batches of games\n"
    yield (
        f"{heading('jax', 'pgx', 'equinox')} Connect Four, {num_games} games, Gumbel root, {num_simulations} "
        "simulations, bfloat16. Score: against one leaf a step, with as many simulations as fit in the same time.\n"
    )
    yield "| leaves a step | simulations/s | simulations in the same time | score | 95 % interval |"
    yield "|---:|---:|---:|---:|---|"

    def search(number: int, simulations: int) -> tz.MCTS:
        return tz.gumbel_mcts(simulations, 7, num_leaves=number, persist_tree=False)

    speeds = {}
    for number in (1, 2) if args.tiny else (1, 8, 4, 2):
        mcts = search(number, num_simulations)
        program = jax.jit(functools.partial(tz_search, mcts, env, evaluator)).lower(*inputs).compile()
        jax.block_until_ready(program(*inputs))
        times, begun = [], time.perf_counter()
        while len(times) < 3 or time.perf_counter() - begun < (0 if args.tiny else SECONDS):
            start = time.perf_counter()
            jax.block_until_ready(program(*inputs))
            times.append(time.perf_counter() - start)
        speeds[number] = num_games * num_simulations / statistics.median(times)
        simulations = max(1, round(num_simulations * speeds[number] / speeds[1] / number)) * number
        players = [
            tz.Player(tz.without_exploration(search(*pair)), evaluator)
            for pair in ((number, simulations), (1, num_simulations))
        ]
        match = tz.play_match(
            env, *players, num_games=num_games, max_moves=42, opening_moves=6, key=jax.random.key(number)
        )
        low, high = match.interval()
        yield (
            f"| {number} | {speeds[number]:,.0f} | {simulations} | {float(match.score):.3f} | "
            f"{float(low):.3f} to {float(high):.3f} |"
        )


PARTS = {
    "speed": measure_speed,
    "speed_graphs": measure_speed,
    "kernels": count_kernels,
    "epoch": measure_epoch,
    "connect_four": functools.partial(connect_four, "connect_four"),
    "connect_four_small": functools.partial(connect_four, "connect_four_small"),
    "connect_four_muon": functools.partial(connect_four, "connect_four_muon"),
    "leaves": measure_leaves,
    "othello": functools.partial(board_game, "othello"),
    "go_9x9": functools.partial(board_game, "go_9x9"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--cells", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    (args.out / f"{args.part}.md").unlink(missing_ok=True)
    for line in PARTS[args.part](args):
        print(line, flush=True)
        with open(args.out / f"{args.part}.md", "a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
