"""Checks memory and speed over a long run: `python experiments/soak.py --minutes 60 --out runs/soak`.

It trains Connect Four in one process, with tests and checkpoints. Then it writes a table and a plot into the folder of
the run: memory, speed, and compilations after the warm-up. During the warm-up there is a checkpoint after every epoch,
so that the threads that write checkpoints soon hold all the memory that they will keep. Afterwards there is one every
five minutes.
"""

import argparse
import dataclasses
import pathlib
import time

import jax
import jax.monitoring
import matplotlib.pyplot as plt
import numpy as np
from timing import heading

import tz

MOVES = tz.Recipe().num_games * tz.Recipe().moves_per_epoch  # in one epoch


def resident_megabytes() -> float:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def train(minutes: float, warm_up: float, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Trains, and returns a column of each measurement, with an entry for each epoch."""
    compiled, rows, begun = [], [], time.perf_counter()
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    recipe = tz.Recipe()
    config, env = recipe.build()
    testers = tz.OpponentTester(tz.random_player(), "random"), tz.TwoPlayerTester(num_games=32)
    config = dataclasses.replace(config, testers=testers, epochs_per_test=10)

    def watch(metrics):
        minute, speed = (time.perf_counter() - begun) / 60, metrics["moves_per_second"]
        if minute > warm_up:
            checkpoints.every_epochs = None
        rows.append((minute, resident_megabytes(), speed, metrics["seconds"], len(compiled), "random_score" in metrics))

    state = recipe.start(config, env, seed=0)
    checkpoints = tz.Checkpoints(folder, every_epochs=1, every_minutes=5)
    sinks = [watch, tz.JsonLinesSink(folder / "metrics.jsonl")]
    tz.runs.train_for(recipe, config, env, state, seconds=60 * minutes, sinks=sinks, checkpoints=checkpoints)
    names = "minute", "memory", "speed", "seconds", "compiled", "tested"
    return dict(zip(names, np.array(rows, float).T, strict=True))


def report(columns: dict[str, np.ndarray], warm_up: float) -> list[str]:
    """Returns the rows of the table: the slope of the memory, the compilations, and the speed by quarters."""
    warm = columns["minute"] > warm_up
    minute, memory, compiled = (columns[name][warm] for name in ("minute", "memory", "compiled"))
    slope = 60 * np.polyfit(minute, memory, 1)[0]
    plain = warm & (columns["tested"] == 0)
    quarters = np.array_split(np.flatnonzero(plain), 4)
    speeds, seconds = ([float(np.median(columns[name][q])) for q in quarters] for name in ("speed", "seconds"))
    # Moves in the time of the gradient steps: a machine that becomes slower as a whole cancels out.
    yardstick = columns["speed"] * (columns["seconds"] - MOVES / columns["speed"])
    steady = [float(np.median(yardstick[q])) for q in quarters]
    return [
        f"| epochs, in all and after the warm-up | {len(warm)}, {warm.sum()} |",
        f"| resident memory at the end of the warm-up and of the run | {memory[0]:.0f} MB, {memory[-1]:.0f} MB |",
        f"| slope of the memory after the warm-up, least squares | {slope:+.1f} MB an hour |",
        f"| programs compiled in the warm-up and after it | {compiled[0]:.0f}, {compiled[-1] - compiled[0]:.0f} |",
        f"| moves a second, median of each quarter | {', '.join(f'{speed:.0f}' for speed in speeds)} |",
        f"| seconds an epoch without tests, median of each quarter | {', '.join(f'{x:.2f}' for x in seconds)} |",
        f"| speed of the last quarter over the first | {speeds[-1] / speeds[0]:.3f} |",
        "| the same relative to the time of the gradient steps, which do the same work in every epoch | "
        f"{steady[-1] / steady[0]:.3f} |",
    ]


def plot(columns: dict[str, np.ndarray], warm_up: float, path: pathlib.Path) -> None:
    figure, (upper, lower) = plt.subplots(2, sharex=True, figsize=(7, 5), layout="constrained")
    upper.plot(columns["minute"], columns["memory"])
    upper.set(ylabel="resident memory, MB", ylim=(0, None))
    lower.plot(columns["minute"], columns["speed"], ".", markersize=3)
    lower.set(xlabel="minutes", ylabel="moves a second in self-play", ylim=(0, None))
    for axes in (upper, lower):
        axes.axvline(warm_up, color="gray", linestyle="--", linewidth=1)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60, help="the length of the run")
    parser.add_argument("--warm-up", type=float, default=5, help="minutes of the warm-up")
    parser.add_argument("--devices", type=int, default=2, help="two use the cores of a CPU better than one")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/soak"))
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)
    columns = train(args.minutes, args.warm_up, args.out)
    title = f"{args.minutes:g} minutes of training in one process. {heading('jax', 'orbax-checkpoint')}"
    lines = ["# A long run", "", title, "", "| | |", "|---|---|", *report(columns, args.warm_up)]
    (args.out / "soak.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    plot(columns, args.warm_up, args.out / "soak.png")


if __name__ == "__main__":
    main()
