"""Measures what a new run compiles: `python experiments/compile_times.py tic_tac_toe othello`.

It starts a run by the recipe of a game, with a test against random moves, and makes one epoch. JAX reports the time of
each program. Nothing is compiled beforehand, and each game has a process of its own.
"""

import argparse
import collections
import dataclasses
import json
import os
import subprocess
import sys
import time

from jax import monitoring
from timing import heading

import tz

PARTS = {
    "jaxpr_trace_duration": "tracing",
    "jaxpr_to_mlir_module_duration": "lowering",
    "backend_compile_duration": "compilation",
}


def measure(game: str) -> None:
    """Starts a run in this process and prints the times as JSON."""
    seconds, programs = collections.Counter(), []

    def note(event: str, duration: float, **about: str) -> None:
        part = PARTS.get(event.rsplit("/", 1)[-1])
        seconds[part] += duration
        if part == "compilation":
            programs.append((round(duration, 1), about.get("fun_name", "").removeprefix("jit(").removesuffix(")")))

    monitoring.register_event_duration_secs_listener(note)
    recipe = tz.runs.game_recipe(game, "cpu")
    config, env = recipe.build()
    testers = (tz.OpponentTester(tz.random_player(), "random", num_games=32),) if env.num_players == 2 else ()
    config = dataclasses.replace(config, testers=testers, num_games=16, train_batch_size=16, warmup_moves=16)
    rows, state = [], None
    for phase in ("init_loop", "the first epoch"):
        seconds.clear()
        programs.clear()
        begun = time.perf_counter()
        if state is None:
            state = recipe.start(config, env, seed=0)
        else:
            state = tz.train_loop(config, env, state, num_epochs=1, progress=False, sinks=[])
        long = ", ".join(f"`{name}` {duration}" for duration, name in sorted(programs, reverse=True)[:4])
        times = [f"{seconds[part]:.1f}" for part in PARTS.values()]
        rows.append([game, phase, len(programs), *times, f"{time.perf_counter() - begun:.1f}", long])
    print(json.dumps(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("games", nargs="*", default=["tic_tac_toe", "othello"])
    parser.add_argument("--one", help="measure this game in this process, and print JSON")
    args = parser.parse_args()
    if args.one:
        measure(args.one)
        return
    print(f"{heading('tz', 'jax')} `python experiments/compile_times.py {' '.join(args.games)}`.\n")
    print("| game | phase | programs | tracing, s | lowering, s | compilation, s | in all, s | the longest, s |")
    print("|---|---|---:|---:|---:|---:|---:|---|")
    for game in args.games:
        fresh = {name: text for name, text in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        command = [sys.executable, __file__, "--one", game]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=fresh)
        for row in json.loads(done.stdout.splitlines()[-1]):
            print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main()
