"""The command line: `python -m tz --env connect_four --minutes 20 --out runs/c4`, and `--resume` to go on.

`python -m tz play AGENT` is a game against an agent, and `python -m tz gtp AGENT` an agent that speaks GTP.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax

from tz.play.command import run_play
from tz.play.gtp_command import serve_gtp
from tz.runs.recipes import Recipe
from tz.runs.whole_run import RunSettings, saved_settings, train_run


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains an agent and leaves it in a folder, with checkpoints and metrics."""

    run: RunSettings
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    cpu_devices: int = 2
    """Where there is no GPU, into how many devices the processor is split: about as many as it has cores. With several
    seeds there are at least as many as seeds."""

    def __post_init__(self):
        if self.cpu_devices < 1:
            raise ValueError(f"cpu_devices must be at least 1, found {self.cpu_devices}.")


def parse(arguments: Sequence[str]) -> Options:
    """The options given; those of the run that is resumed or forked are the defaults.

    **Raises:** `ValueError` for numbers out of range, or a folder without a run; `SystemExit` for options that there
    are not.
    """
    try:
        import tyro
    except ImportError as error:
        raise ImportError("The command line needs tyro: pip install 'tz[train]'") from error
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--out", type=pathlib.Path)
    early.add_argument("--fork", type=pathlib.Path)
    early.add_argument("--resume", action="store_true")
    early.add_argument("--minutes")
    early.add_argument("--epochs")
    first, _ = early.parse_known_args(arguments)
    default, length = None, {}
    if (first.minutes is None) != (first.epochs is None):  # takes the place of either; the number itself is read below
        length = {"minutes": 1.0, "epochs": None} if first.epochs is None else {"minutes": None, "epochs": 1}
    if first.resume and first.out is not None:
        recipe, run = saved_settings(first.out)
        default = Options(dataclasses.replace(run, out=first.out, resume=True, **length), recipe)
    elif first.fork is not None and first.out is not None:
        recipe, run = saved_settings(first.fork)
        default = Options(dataclasses.replace(run, out=first.out, resume=False, fork=first.fork, **length), recipe)
    about: dict[str, Any] = {"prog": "python -m tz", "config": (tyro.conf.OmitArgPrefixes,)}
    if default is not None:
        about["default"] = default
    return tyro.cli(Options, args=list(arguments), **about)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options and trains, or does what the first word says; what is wrong is said in one line."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments[:1] == ["gtp"]:
            return serve_gtp(arguments[1:])
        if arguments[:1] == ["play"]:
            return run_play(arguments[1:])
        options = parse(arguments)
        jax.config.update("jax_num_cpu_devices", max(options.cpu_devices, options.run.seeds))
        state = train_run(options.recipe, options.run)
    except (ValueError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
    if isinstance(state, list):
        print(f"{int(state[0].epoch)} epochs; the agents are {options.run.out}/seed_*/agent.tz")
    else:
        print(f"{int(state.epoch)} epochs; the agent is {options.run.out / 'agent.tz'}")


if __name__ == "__main__":
    main()
