"""The settings of a run, such as its length and its folder, and the functions that read and compare them."""

import dataclasses
import json
import os
import pathlib
import shlex
import uuid
from typing import Any

import numpy as np

from tz._arguments import check_ints
from tz.runs.agent_files import agent_card
from tz.runs.recipes import Recipe
from tz.runs.test_choices import check_choices

_RENAMED = {"search_value_share": "search_value_fraction"}  # settings of earlier versions


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """The settings of a run that are not part of its recipe: length, folder, seed, tests and logging.

    [`tz.runs.train_run`][] takes them together with a [`tz.Recipe`][]. Both are also the options of
    `python -m tz train`.

    **Raises:** `ValueError` if a number is out of range, or two settings do not fit together.
    """

    out: pathlib.Path
    """The folder of the run, for its checkpoints, metrics and settings, and for the agent."""
    minutes: float | None = None
    """The minutes of training in all, including those before the run was resumed."""
    epochs: int | None = None
    """The number of epochs in all, instead of minutes. In a fork it includes the epochs of the original run."""
    seed: int = 0
    """The seed of the initial network and of the games. A fork with another seed than its original run plays other
    games."""
    seeds: int = 1
    """The number of agents to train side by side in one program. Their seeds count up from seed, and each has a folder
    seed_N below out."""
    resume: bool = False
    """Continue the run in the folder, with its settings."""
    fork: pathlib.Path | None = None
    """The folder of another run, whose last state is the start of this run."""
    save_minutes: float = 5.0
    """The number of minutes between two checkpoints."""
    keep: int = 3
    """The number of newest checkpoints to keep. The best one, by the first of the tests, is kept as well."""
    test: tuple[str, ...] = ()
    """One or several tests: elo (matches against earlier networks and random moves), ladder (matches against stronger
    and stronger searches with random games), random (random moves), agent:FILE, gtp:COMMAND (a program that speaks
    GTP), and return for a game of one player. The first decides which checkpoint is the best. By default elo, or return
    for one player."""
    test_epochs: int = 20
    """The number of epochs from one test to the next."""
    skip_nonfinite: bool = False
    """Skip and count gradient steps that are not finite. By default such a step stops the run."""
    tensorboard: bool = False
    """Write event files for TensorBoard."""
    wandb: str | None = None
    """The project of Weights & Biases to log to. By default nothing is logged there."""
    wandb_offline: bool = False
    """Keep the logs for Weights & Biases in the folder of the run, to upload them later with wandb sync. This needs no
    login."""

    def __post_init__(self):
        paths = {name: pathlib.Path(x) for name in ("out", "fork") if (x := getattr(self, name)) is not None}
        numbers = {name: x.item() for name, x in vars(self).items() if isinstance(x, np.generic)}
        for name, x in {**paths, **numbers, "test": tuple(self.test)}.items():
            object.__setattr__(self, name, x)
        counts = {name: getattr(self, name) for name in ("epochs", "seed", "seeds", "keep", "test_epochs")}
        check_ints("RunSettings", **{name: x for name, x in counts.items() if x is not None})
        if (self.minutes is None) == (self.epochs is None):
            raise ValueError(
                f"RunSettings: found minutes={self.minutes} and epochs={self.epochs}, expected one of the two; give "
                "either minutes or epochs."
            )
        if self.resume and self.fork is not None:
            raise ValueError(
                f"RunSettings: found resume=True and fork={str(self.fork)!r}, expected one of the two, since a run "
                "that is resumed has started already; leave one of them out."
            )
        if self.seeds > 1 and (self.resume or self.fork is not None):
            raise ValueError(
                f"RunSettings: found seeds={self.seeds} with resume or fork, expected a new run; resume or fork each "
                "seed alone, from its folder seed_N."
            )
        if self.seeds > 1 and self.wandb is not None:
            raise ValueError(
                f"RunSettings: found seeds={self.seeds} and wandb={self.wandb!r}, expected one of the two, since a "
                "process logs to only one run; plot metrics.jsonl with tz.plot.plot_learning, or use tensorboard."
            )
        check_choices(self.test)
        if self.wandb_offline and self.wandb is None:
            raise ValueError("RunSettings: found wandb_offline without wandb, expected both; give a project in wandb.")
        for name in ("minutes", "epochs", "save_minutes", "keep", "test_epochs", "seeds"):
            number = getattr(self, name)
            if number is not None and not 0 < number < 1e9:
                change = "lower" if number > 0 else "raise"
                raise ValueError(
                    f"RunSettings: found {name}={number}, expected more than 0 and less than a billion; {change} it."
                )
        if not -(2**63) <= self.seed <= self.seed + self.seeds - 1 < 2**63:
            raise ValueError(f"RunSettings: found seed={self.seed}, expected one of 64 bits; give a smaller one.")


def check_unused(out: pathlib.Path) -> None:
    """Raises `ValueError` if a folder has a run in it."""
    if (out / "settings.json").exists() or (out / "metrics.jsonl").exists():
        raise ValueError(
            f"train_run: found a run in {out}, expected a folder without one; continue the run with resume=True (on "
            f"the command line: python -m tz resume {out}), choose another folder, or delete this one yourself."
        )


def saved_settings(folder: str | os.PathLike) -> tuple[Recipe, RunSettings]:
    """Reads the recipe and the other settings of the run in a folder.

    **Raises:** `ValueError` if there is no run in the folder, or this version of tz cannot read its settings.
    """
    path = pathlib.Path(folder) / "settings.json"
    try:
        found = json.loads(path.read_text())
        run = {name: value for name, value in found["run"].items() if name not in ("out", "fork")}
        run["test"] = tuple(run.get("test", ["random"]))  # earlier versions did not save it: all had this test
        recipe = dict(found["recipe"])
        recipe |= {new: recipe.pop(old) for old, new in _RENAMED.items() if old in recipe}
        return Recipe(**recipe), RunSettings(out=pathlib.Path(folder), **run)
    except OSError as error:
        raise ValueError(
            f"folder: found no run in {folder} ({error}), expected the folder of a run; give another."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"folder: found settings in {path} that this version of tz cannot read ({error}), expected settings of a "
            "run; give the folder of another run, or use the version of tz that wrote it."
        ) from error


def check_same(recipe: Recipe, settings: RunSettings) -> None:
    """Raises `ValueError` if a run cannot be resumed because its recipe, seed or tests have changed."""
    saved, run = saved_settings(settings.out)
    before = dataclasses.asdict(saved) | {"seed": run.seed, "test": run.test}
    now = dataclasses.asdict(recipe) | {"seed": settings.seed, "test": settings.test}
    if changed := [f"{name} {now[name]} (the run has {before[name]})" for name in now if now[name] != before[name]]:
        raise ValueError(
            f"resume: found {', '.join(changed)}, expected the settings of the run in {settings.out}; leave them as "
            f"they were, or start a new run from it: python -m tz fork {settings.out} --out another_folder."
        )


def origin_of(settings: RunSettings) -> dict[str, Any]:
    """Returns the facts that a resumed run keeps: its id, and the card of the agent that it was forked from."""
    if settings.resume:
        found = json.loads((settings.out / "settings.json").read_text())
        return {name: found.get(name) for name in ("id", "forked_from")}
    agent = None if settings.fork is None else settings.fork / "agent.tz"
    return {"id": uuid.uuid4().hex[:8], "forked_from": agent_card(agent) if agent and agent.exists() else None}


def saved_run(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the settings of the run in a folder; none if the folder has no file of them, as after your own loop."""
    path = folder / "settings.json"
    return json.loads(path.read_text())["run"] if path.exists() else {}


def script_of(command: list[str]) -> str:
    """Returns a command as it was typed, without the folders of installed programs."""
    program, *arguments = command
    name = pathlib.Path(program).name if pathlib.Path(program).is_absolute() else program
    is_command = name.endswith("__main__.py") or name == "tz"
    return f"python {'-m tz' if is_command else shlex.quote(name)} {shlex.join(arguments)}".strip()


def plain_settings(settings: RunSettings) -> dict[str, Any]:
    """Returns the settings in a form that JSON can hold."""
    values = dataclasses.asdict(settings) | {"test": list(settings.test)}
    return {name: str(value) if isinstance(value, pathlib.Path) else value for name, value in values.items()}
