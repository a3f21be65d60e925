"""Trains a Connect Four agent from scratch: `python experiments/connect_four/train.py --budget-minutes 20`.

The budget is the time of the whole process, compilation included. The agent, checkpoints and metrics are written to
`--out`. It does the same as `python -m tz train --env connect_four --test random`.
"""

import argparse
import pathlib
import time

import jax

import tz

STARTED = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget-minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/connect_four"))
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 2)  # uses the cores of a CPU better than one device
    minutes = (
        args.budget_minutes - (time.perf_counter() - STARTED + 4) / 60
    )  # less the imports so far, and 4 seconds for the last files
    settings = tz.runs.RunSettings(args.out, minutes=minutes, seed=args.seed, resume=args.resume, test=("random",))
    tz.runs.train_run(tz.runs.game_recipe("connect_four"), settings)
    print(f"{time.perf_counter() - STARTED:.0f} s in all; the agent is {args.out / 'agent.tz'}")


if __name__ == "__main__":
    main()
