"""Metric sinks: where the training loop's metrics go. A sink is any `dict -> None`, called once an epoch."""

import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

Sink = Callable[[Mapping[str, Any]], None]
"""`metrics -> None`, called once an epoch, by the first process only; any function of a dict, such as `list.append`.

The loop's own metrics are numbers; those of a tester may be anything, and tz's sinks write what they can of it."""


def plain(value: Any) -> bool | int | float | str | None:
    """A metric as Python has it: scalars of NumPy and JAX as numbers, and as text what is no number, text or None."""
    if hasattr(value, "item") and np.size(value) == 1:
        value = value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def console_sink(metrics: Mapping[str, Any]) -> None:
    """Prints one line an epoch, above a progress bar where there is one."""

    def text(value: bool | int | float | str | None) -> str:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return str(value)
        return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3f}"

    tqdm.write("  ".join(f"{name} {text(plain(value))}" for name, value in metrics.items()))
    sys.stdout.flush()  # a file, as under nohup, would get it much later


_TOTALS = {
    "seconds": "elapsed_seconds",
    "moves": "total_moves",
    "episodes": "total_games",
    "gradient_steps": "total_steps",
}


class JsonLinesSink:
    """Appends one JSON object an epoch to a file, whose folder is made where it is missing.

    JSON has no NaN and no infinity: `null` stands for them, as for None. What is no scalar is written as text. Each
    line also has what there was in all so far: `elapsed_seconds`, `total_moves`, `total_games` and `total_steps`, where
    the metrics have the `seconds`, `moves`, `episodes` and `gradient_steps` of an epoch.

    **Arguments:** `path`, the file; `first_epoch`, of a run that is resumed: the epoch it goes on with. The lines of
    this and later epochs, written before the run was cut off, are left out, as these epochs are done again. None adds
    to what there is.

    **Raises:** `ValueError` for a file of other lines than such a sink writes.
    """

    def __init__(self, path: str | pathlib.Path, *, first_epoch: int | None = None):
        self.path = pathlib.Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._totals: dict[Any, dict[str, int | float]] = {}
        if first_epoch is not None and self.path.exists():
            *lines, _ = self.path.read_text().split("\n")  # what has no end was cut off while it was written
            try:
                kept = [line + "\n" for line in lines if json.loads(line)["epoch"] < first_epoch]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(f"{self.path} has lines that are no metrics of epochs: {error}.") from error
            temporary = self.path.with_name(f".{self.path.name}.new")
            temporary.write_text("".join(kept))
            os.replace(temporary, self.path)
        if self.path.exists():
            self._read_totals()

    def totals(self, seed: Any = None) -> dict[str, int | float]:
        """What there was in all so far, of a seed where the metrics have several."""
        return dict(self._totals.get(seed, {}))

    def _read_totals(self) -> None:
        """Takes the totals of the lines that there are; another file's lines, or those of before totals, have none."""
        for line in self.path.read_text().splitlines():
            try:
                row = json.loads(line)
                self._totals[row.get("seed")] = {name: row[name] for name in _TOTALS.values() if name in row}
            except (json.JSONDecodeError, AttributeError):
                continue

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        """Appends one line."""
        totals = self._totals.setdefault(plain(metrics.get("seed")), {})
        for name, total in _TOTALS.items():
            if isinstance(value := plain(metrics.get(name)), int | float):
                totals[total] = totals.get(total, 0) + value
        metrics = {**metrics, **totals}
        values = {name: plain(value) for name, value in metrics.items()}
        values = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(values, allow_nan=False) + "\n")


class WandbSink:
    """Logs to a project of Weights & Biases.

    **Arguments:** `project`, its name; further keywords go to `wandb.init`, such as `config`, the settings of the run,
    `name`, `mode="offline"`, or `id` and `resume` to go on with a run.

    **Raises:** `ImportError` where wandb is not installed; `ValueError` where the run cannot be begun, as without a
    login.
    """

    def __init__(self, project: str, **kwargs: Any):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError("WandbSink needs wandb: pip install 'tz[wandb]'") from error
        try:
            self.run = wandb.init(project=project, **kwargs)
        except Exception as error:
            raise ValueError(
                f"WandbSink: wandb.init: found {error!r:.500}, expected a run of the project {project!r}; log in by "
                '`wandb login`, or pass mode="offline".'
            ) from error

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        """Logs one epoch."""
        self.run.log({name: plain(value) for name, value in metrics.items()}, step=int(metrics["epoch"]))

    def close(self) -> None:
        """Ends the run, once everything is sent."""
        self.run.finish()


def check_login(offline: bool) -> None:
    """Raises `ImportError` without wandb, and `ValueError` if it would ask for a login, before anything is made."""
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("WandbSink needs wandb: pip install 'tz[wandb]'") from error
    modes = os.environ.get("WANDB_MODE"), "offline" if offline else None
    if {"offline", "disabled", "dryrun"} & set(modes) or os.environ.get("WANDB_API_KEY"):
        return
    api = getattr(wandb, "api", None)
    if api is not None and getattr(api, "api_key", None) is None:
        raise ValueError(
            "wandb: found no login, expected one; log in by `wandb login`, or give --wandb-offline and send the run "
            "later by `wandb sync`."
        )


_GROUPS = {
    "speed": r"(moves|simulations)_per_second|seconds|elapsed_seconds",
    "self_play": r"moves|episodes|truncated|mean_length|mean_return|return_spread|replay_known|total_(moves|games)",
    "training": r"loss|.*_loss|.*_loss_floor|gradient_norm|.*entropy|.*_steps|policy_.*|value_.*",
    "tests": r".*_(score|wins|draws|losses|unfinished|rung|height|replaced|return|low|high)|elo.*",
}


def tag_of(name: str) -> str:
    """The name of a metric with the group that TensorBoard shows it in, such as `self_play/mean_length`."""
    for group, pattern in _GROUPS.items():
        if re.fullmatch(pattern, name):
            return f"{group}/{name}"
    return name


class TensorBoardSink:
    """Writes event files for TensorBoard: numbers as curves, text as text; None is left out.

    The metrics of the loop are in groups: `training/loss`, `self_play/mean_length`, `speed/moves_per_second`,
    `tests/random_score`.

    **Arguments:** `folder`, of the files; `settings`, of the run, shown as text.

    **Raises:** `ImportError` where tensorboard is not installed.
    """

    def __init__(self, folder: str | pathlib.Path, *, settings: Mapping[str, Any] | None = None):
        try:
            from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError("TensorBoardSink needs tensorboardX: pip install 'tz[tensorboard]'") from error
        self.writer = SummaryWriter(str(folder))
        if settings is not None:
            self.writer.add_text("settings", f"```\n{json.dumps(settings, indent=1)}\n```")

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        """Writes one epoch, to the disk at once."""
        epoch = int(metrics["epoch"])
        for name, value in metrics.items():
            value = plain(value)
            if isinstance(value, str):
                self.writer.add_text(tag_of(name), value, epoch)
            elif value is not None and name != "epoch":
                self.writer.add_scalar(tag_of(name), float(value), epoch)
        self.writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self.writer.close()


def run_facts() -> dict[str, Any]:
    """Where a run runs, to be kept with its settings: versions, devices, the command, and the git revision if any.

    A version is None where a package has no metadata, as tz has none in a checkout that is only on the PYTHONPATH.
    """
    versions = {name: _version(name) for name in ("tz", "jax", "jaxlib", "equinox", "optax", "pgx")}
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        revision = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        revision = None
    return {
        "versions": versions | {"python": platform.python_version()},
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "git": revision,
        "command": sys.argv,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def call_sinks(sinks: Sequence[Sink], metrics: Mapping[str, Any]) -> None:
    """Calls the sinks in the first process. What one of them raises is no reason to stop training."""
    for sink in sinks if jax.process_index() == 0 else ():
        try:
            sink(metrics)
        except Exception as error:
            name = getattr(sink, "__qualname__", type(sink).__name__)
            warnings.warn(
                f"The sink {name} failed in epoch {metrics['epoch']}, whose metrics it may have lost: {error!r:.500}. "
                "Training goes on.",
                stacklevel=3,
            )


def told(progress: bool | Callable[[str], None]) -> Callable[[str], None]:
    """Return the function that is told what begins; without one in `progress` it does nothing."""
    return progress if callable(progress) else lambda phase: None


def bar(total: int | None, unit: str, shown: bool, **options: Any) -> tqdm:
    """A progress bar in a terminal or a notebook, and nothing anywhere else."""
    shown = shown and (sys.stderr.isatty() or "ipykernel.zmqshell" in sys.modules)
    if not shown:
        return tqdm(total=total, disable=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a notebook has no widgets: then the bar is text
        from tqdm.auto import tqdm as bar_of_place
    return bar_of_place(total=total, unit=unit, **options)
