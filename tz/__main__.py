"""The command line: `python -m tz --env connect_four --minutes 20 --out runs/c4`, and `--resume` to go on."""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax

from tz.recipe import Recipe
from tz.run import RunSettings, saved_settings, train_run


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains an agent and leaves it in a folder, with checkpoints and metrics."""

    run: RunSettings
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    cpu_devices: int = 2
    """Where there is no GPU, into how many devices the processor is split: about as many as it has cores."""


def parse(arguments: Sequence[str]) -> Options:
    """The options given; those of the run that is resumed or forked are the defaults.

    **Raises:** `ValueError` for options that contradict each other, or a folder without a run; `SystemExit` for those
    that there are not.
    """
    try:
        import tyro
    except ImportError as error:
        raise ImportError("The command line needs tyro: pip install 'tz[train]'") from error
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--out", type=pathlib.Path)
    early.add_argument("--fork", type=pathlib.Path)
    early.add_argument("--resume", action="store_true")
    first, _ = early.parse_known_args(arguments)
    default = None
    if first.resume and first.out is not None:
        recipe, run = saved_settings(first.out)
        default = Options(dataclasses.replace(run, out=first.out, resume=True, fork=None), recipe)
    elif first.fork is not None and first.out is not None:
        recipe, run = saved_settings(first.fork)
        default = Options(dataclasses.replace(run, out=first.out, resume=False, fork=first.fork), recipe)
    about: dict[str, Any] = {"prog": "python -m tz", "config": (tyro.conf.OmitArgPrefixes,)}
    if default is not None:
        about["default"] = default
    options = tyro.cli(Options, args=list(arguments), **about)
    if first.resume and default is not None:
        before, now = (dataclasses.asdict(x.recipe) | {"seed": x.run.seed} for x in (default, options))
        if changed := [f"{name} {now[name]}, where it has {before[name]}" for name in now if now[name] != before[name]]:
            raise ValueError(
                f"The run in {first.out} cannot be resumed with {'; '.join(changed)}. Leave these options out, or "
                f"begin another run from it: --fork {first.out} and another --out."
            )
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options and trains; what is wrong with them is said in one line."""
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        jax.config.update("jax_num_cpu_devices", options.cpu_devices)
        state = train_run(options.recipe, options.run)
    except (ValueError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{int(state.epoch)} epochs; the agent is {options.run.out / 'agent.tz'}")


if __name__ == "__main__":
    main()
