"""The settings of a run: how long it is, where it is kept, and how they are read back."""

import dataclasses
import json
import os
import pathlib
import shlex
import uuid
from typing import Any

from tz.runs.agent_files import agent_card
from tz.runs.recipes import Recipe
from tz.runs.test_choices import check_choices

_RENAMED = {"search_value_share": "search_value_fraction"}  # settings of earlier versions


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """How long a run is, where it is kept, and how it can be watched."""

    out: pathlib.Path
    """The folder of the run, where everything is left: checkpoints, metrics, settings, and the agent."""
    minutes: float | None = None
    """The minutes of training, with those before the run was resumed."""
    epochs: int | None = None
    """The number of epochs, instead of minutes. In a fork it includes those of the run that the fork began from."""
    seed: int = 0
    """The seed of the first network and of the games."""
    seeds: int = 1
    """The number of agents that are trained side by side in one program. Their seeds count up from seed, and each has
    a folder seed_N below out."""
    resume: bool = False
    """Whether to go on with the run in the folder, with its settings."""
    fork: pathlib.Path | None = None
    """The folder of another run, with whose last state this one begins."""
    save_minutes: float = 5.0
    """The minutes between two checkpoints."""
    keep: int = 3
    """The number of the newest checkpoints to keep, besides the best one by the first of the tests."""
    test: tuple[str, ...] = ()
    """The tests, one or several: elo (matches against earlier networks and random play), ladder (ever stronger searches
    with random games), random, agent:FILE, gtp:COMMAND, and return for a game of one player. The first decides which
    checkpoint is the best. Without it, a run has elo, or return."""
    test_epochs: int = 20
    """The epochs from one test to the next."""
    skip_nonfinite: bool = False
    """Leave out and count gradient steps that are not finite. Without it they stop the run."""
    tensorboard: bool = False
    """Write event files for TensorBoard."""
    wandb: str | None = None
    """A project of Weights & Biases to log to."""
    wandb_offline: bool = False
    """Keep what is logged for Weights & Biases in the folder of the run, to be sent later by wandb sync. This needs no
    login."""

    def __post_init__(self):
        if (self.minutes is None) == (self.epochs is None):
            raise ValueError(f"Expected either minutes or epochs, found minutes={self.minutes}, epochs={self.epochs}.")
        if self.resume and self.fork is not None:
            raise ValueError("Expected either resume or fork: a run that is resumed has begun already.")
        if self.seeds > 1 and (self.resume or self.fork is not None):
            raise ValueError(
                f"RunSettings: found seeds={self.seeds} with resume or fork, expected a new run; resume or fork each "
                "of its seeds alone, from the folder seed_N."
            )
        if self.seeds > 1 and self.wandb is not None:
            raise ValueError(
                f"RunSettings: found seeds={self.seeds} and wandb={self.wandb!r}, expected one of the two, since a "
                "process logs to one run; draw metrics.jsonl with tz.plot.plot_learning, or use tensorboard."
            )
        check_choices(self.test)
        if self.wandb_offline and self.wandb is None:
            raise ValueError("RunSettings: found wandb_offline without wandb, expected the name of a project as well.")
        for name in ("minutes", "epochs", "save_minutes", "keep", "test_epochs", "seeds"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, found {getattr(self, name)}.")


def check_unused(out: pathlib.Path) -> None:
    """Raises `ValueError` if a folder has a run in it."""
    if (out / "settings.json").exists() or (out / "metrics.jsonl").exists():
        raise ValueError(
            f"{out} has a run in it. Go on with it by resume=True (on the command line: python -m tz resume {out}), "
            "choose another folder, or delete this one yourself."
        )


def saved_settings(folder: str | os.PathLike) -> tuple[Recipe, RunSettings]:
    """The recipe and the other settings of the run in a folder.

    **Raises:** `ValueError` if there is no run, or its settings are not those of a run of this version.
    """
    path = pathlib.Path(folder) / "settings.json"
    try:
        found = json.loads(path.read_text())
        run = {name: value for name, value in found["run"].items() if name not in ("out", "fork")}
        run["test"] = tuple(run.get("test", ["random"]))  # which all runs of earlier versions had
        recipe = dict(found["recipe"])
        recipe |= {new: recipe.pop(old) for old, new in _RENAMED.items() if old in recipe}
        return Recipe(**recipe), RunSettings(out=pathlib.Path(folder), **run)
    except OSError as error:
        raise ValueError(f"There is no run in {folder}: {error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold the settings of a run of this version of tz: {error}.") from error


def check_same(recipe: Recipe, settings: RunSettings) -> None:
    """Raises `ValueError` unless a run that is to be resumed has this recipe and seed."""
    saved, run = saved_settings(settings.out)
    before = dataclasses.asdict(saved) | {"seed": run.seed, "test": run.test}
    now = dataclasses.asdict(recipe) | {"seed": settings.seed, "test": settings.test}
    if changed := [f"{name} {now[name]}, where it has {before[name]}" for name in now if now[name] != before[name]]:
        raise ValueError(
            f"The run in {settings.out} cannot be resumed with {'; '.join(changed)}. Leave that as it was, or begin "
            f"another run from it: python -m tz fork {settings.out} --out another_folder."
        )


def origin_of(settings: RunSettings) -> dict[str, Any]:
    """What a run keeps when it is resumed: its name, and the card of the agent whose run it was forked from."""
    if settings.resume:
        found = json.loads((settings.out / "settings.json").read_text())
        return {name: found.get(name) for name in ("id", "forked_from")}
    agent = None if settings.fork is None else settings.fork / "agent.tz"
    return {"id": uuid.uuid4().hex[:8], "forked_from": agent_card(agent) if agent and agent.exists() else None}


def script_of(command: list[str]) -> str:
    """A command as it was typed, but for where programs are kept."""
    program, *arguments = command
    name = pathlib.Path(program).name if pathlib.Path(program).is_absolute() else program
    is_command = name.endswith("__main__.py") or name == "tz"
    return f"python {'-m tz' if is_command else shlex.quote(name)} {shlex.join(arguments)}".strip()


def plain_settings(settings: RunSettings) -> dict[str, Any]:
    """The settings in values that JSON has."""
    values = dataclasses.asdict(settings) | {"test": list(settings.test)}
    return {name: str(value) if isinstance(value, pathlib.Path) else value for name, value in values.items()}
