"""Trains a Connect Four agent from scratch: `python experiments/connect_four/train.py --budget-minutes 20`.

The budget is that of the whole process, with compilation. Leaves the agent and the metrics of each epoch in `--out`.
"""

import argparse
import dataclasses
import pathlib
import platform
import time
from importlib.metadata import version

import jax

import tz

STARTED = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget-minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/connect_four"))
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 2)  # uses the cores of a CPU better than one device
    args.out.mkdir(parents=True, exist_ok=True)
    metrics = args.out / "metrics.jsonl"
    metrics.unlink(missing_ok=True)  # of an earlier run of this script

    recipe = tz.Recipe("connect_four")
    env, config = recipe.build()
    state = recipe.start(env, config, seed=args.seed)
    seconds = 60 * args.budget_minutes - (time.perf_counter() - STARTED) - 2  # for the imports and the last file
    sinks = [tz.console_sink, tz.JsonLinesSink(metrics)]
    state = tz.train_for(recipe, env, config, state, seconds=seconds, sinks=sinks)
    card = {
        "script": "experiments/connect_four/train.py",
        "seed": args.seed,
        "recipe": dataclasses.asdict(recipe),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {"tz": version("tz"), "jax": jax.__version__, "python": platform.python_version()},
        "epochs": int(state.epoch),
        "minutes": round((time.perf_counter() - STARTED) / 60, 1),
    }
    tz.save_agent(args.out / "agent.tz", env, state.train.playing, state.train.norm_state, card=card)
    print(f"{time.perf_counter() - STARTED:.0f} s in all; the agent is {args.out / 'agent.tz'}")


if __name__ == "__main__":
    main()
