"""Measures the cost of checkpoints.

    python experiments/checkpointing.py --out experiments/results/checkpointing_cpu.md

Trains Connect Four with the recipe, in one process. Turns of some epochs without checkpoints, with a checkpoint after
every tenth epoch, and with one after every epoch alternate. The time of an epoch is measured over a whole turn.
"""

import argparse
import pathlib
import tempfile
import time

import jax
import numpy as np
from timing import heading

import tz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20, help="epochs of a turn")
    parser.add_argument("--turns", type=int, default=5, help="turns with each setting")
    parser.add_argument("--devices", type=int, default=2, help="two use the cores of a CPU better than one")
    parser.add_argument("--out", type=pathlib.Path, help="write the table to this Markdown file")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)
    recipe = tz.Recipe(anneal=0.0)
    config, env = recipe.build()
    state = tz.train_loop(config, env, recipe.start(config, env, seed=0), num_epochs=3, sinks=[], progress=False)
    ways = {"no checkpoints": None, "after every tenth epoch": 10, "after every epoch": 1}
    times, blocked = {name: [] for name in ways}, []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        for turn in range(args.turns):
            for name, every in ways.items():
                checkpoints = None
                if every is not None:
                    checkpoints = tz.Checkpoints(path / f"{turn}_{every}", every_epochs=every, keep=2)
                    save = checkpoints.save

                    def timed(*arguments, save=save, **keywords):
                        begun = time.perf_counter()
                        save(*arguments, **keywords)
                        blocked.append(time.perf_counter() - begun)

                    checkpoints.save = timed
                begun = time.perf_counter()
                options = {"sinks": [], "progress": False, "checkpoints": checkpoints}
                state = tz.train_loop(config, env, state, num_epochs=args.epochs, **options)
                times[name].append((time.perf_counter() - begun) / args.epochs)
        size = sum(file.stat().st_size for file in next(path.glob("*/checkpoints/*")).rglob("*") if file.is_file())
    plain = np.array(times["no checkpoints"])
    held = sum(x.nbytes for x in jax.tree.leaves(state) if hasattr(x, "nbytes")) / 1e6
    lines = [
        "# Saving",
        "",
        f"{heading('jax', 'orbax-checkpoint')} {args.devices} device(s); the state takes {held:.0f} MB in memory and "
        f"{size / 1e6:.0f} MB on the disk; `save` returned after {1000 * np.median(blocked):.0f} ms (median).",
        "",
        "| checkpoints | seconds an epoch, median of the turns | ratio to no checkpoints, each turn |",
        "|---|---:|---|",
    ]
    for name, seconds in times.items():
        ratios = ", ".join(f"{ratio:.3f}" for ratio in np.array(seconds) / plain)
        lines.append(f"| {name} | {np.median(seconds):.3f} | {ratios} |")
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
