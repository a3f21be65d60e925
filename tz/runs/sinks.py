"""Metric sinks, which receive the metrics of the training loop. A sink is any function of a dict."""

import contextlib
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
"""A function `metrics -> None` that is called once for each epoch, in the first process only, such as `list.append`.

The metrics of the loop itself are numbers. The metrics of a tester may be anything; tz's sinks write them as text if
they are not numbers."""


def plain(value: Any) -> bool | int | float | str | None:
    """Converts a metric to plain Python: scalars of NumPy and JAX to numbers, and other objects to text."""
    if hasattr(value, "item") and np.size(value) == 1:
        value = value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def console_sink(metrics: Mapping[str, Any]) -> None:
    """Prints one line for each epoch, above a progress bar if there is one.

    **Arguments:**

    - `metrics`: the metrics of an epoch.
    """

    def text(value: bool | int | float | str | None) -> str:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return str(value)
        return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3f}"

    tqdm.write("  ".join(f"{name} {text(plain(value))}" for name, value in metrics.items()))
    sys.stdout.flush()  # a file, as under nohup, would otherwise get the line much later


_TOTALS = {
    "seconds": "elapsed_seconds",
    "moves": "total_moves",
    "episodes": "total_games",
    "gradient_steps": "total_steps",
}


def metric_rows(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """Reads the lines that a `JsonLinesSink` wrote. Lines that were cut off while they were written are left out.

    **Raises:** `ValueError` if another line is not a JSON object.
    """
    rows = []
    for number, line in enumerate(pathlib.Path(path).read_text().splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if line.startswith("{"):
                continue
            raise ValueError(f"line {number} of {path} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} of {path} is not a JSON object")
        rows.append(row)
    return rows


class JsonLinesSink:
    """Appends one JSON object for each epoch to a file.

    JSON has no NaN and no infinity; they are written as `null`, like None. Values that are not scalars are written as
    text. Each line also has totals since the start of the run: `elapsed_seconds`, `total_moves`, `total_games` and
    `total_steps`, if the metrics have `seconds`, `moves`, `episodes` and `gradient_steps`.

    **Arguments:**

    - `path`: the file. Its folder is made if it is missing.
    - `first_epoch`: for a run that is resumed, the epoch that comes next. Lines of this epoch and later ones are
        removed, since these epochs will run again, and so are lines that were cut off, as on a full disk. With None, no
        line is removed.

    **Raises:** `ValueError` if `first_epoch` is given and the file has lines that are not metrics of epochs.
    """

    def __init__(self, path: str | pathlib.Path, *, first_epoch: int | None = None):
        self.path = pathlib.Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._totals: dict[Any, dict[str, int | float]] = {}
        if first_epoch is not None and self.path.exists():
            try:
                kept = [json.dumps(row) + "\n" for row in metric_rows(self.path) if row["epoch"] < first_epoch]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"JsonLinesSink: found lines in {self.path} that are not metrics of epochs ({error}), expected one "
                    "JSON object for each epoch; choose another file."
                ) from error
            temporary = self.path.with_name(f".{self.path.name}.new")
            temporary.write_text("".join(kept))
            os.replace(temporary, self.path)  # so that the file is never half written
        if self.path.exists():
            self._read_totals()

    def totals(self, seed: Any = None) -> dict[str, int | float]:
        """Returns the totals so far, by their names in the lines.

        **Arguments:**

        - `seed`: the seed, if the sink gets the metrics of several seeds.
        """
        return dict(self._totals.get(seed, {}))

    def _read_totals(self) -> None:
        """Reads the totals of the lines in the file. Lines of earlier versions, or of other programs, have none."""
        with contextlib.suppress(ValueError):
            for row in metric_rows(self.path):
                self._totals[row.get("seed")] = {name: row[name] for name in _TOTALS.values() if name in row}

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        """Appends the line of an epoch."""
        totals = self._totals.setdefault(plain(metrics.get("seed")), {})
        for name, total in _TOTALS.items():
            if isinstance(value := plain(metrics.get(name)), int | float):
                totals[total] = totals.get(total, 0) + value
        metrics = {**metrics, **totals}
        values = {name: plain(value) for name, value in metrics.items()}
        values = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in values.items()}
        text = json.dumps(values, allow_nan=False) + "\n"
        with self.path.open("ab+") as file:
            if file.tell():  # after a line that was cut off, a new one begins
                file.seek(-1, os.SEEK_END)
                text = text if file.read(1) == b"\n" else "\n" + text
            file.write(text.encode())


class WandbSink:
    """Logs the metrics to a run of Weights & Biases.

    **Arguments:**

    - `project`: the name of the project.
    - `**kwargs`: further arguments of `wandb.init`, such as `config` with the settings of the run, `name`,
        `mode="offline"`, or `id` and `resume` to continue a run.

    **Raises:** `ImportError` if wandb is not installed; `ValueError` if wandb cannot start the run, for example without
    a login.
    """

    def __init__(self, project: str, **kwargs: Any):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                "WandbSink: found no wandb, expected it to be installed; run pip install 'tz[wandb]'."
            ) from error
        try:
            self.run = wandb.init(project=project, **kwargs)
        except Exception as error:
            raise ValueError(
                f"WandbSink: found that wandb.init raised {error!r:.500}, expected a run in the project {project!r}; "
                'log in with `wandb login`, or pass mode="offline".'
            ) from error

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        """Logs the metrics of an epoch."""
        self.run.log({name: plain(value) for name, value in metrics.items()}, step=int(metrics["epoch"]))

    def close(self) -> None:
        """Ends the run after everything is uploaded."""
        self.run.finish()


def check_login(offline: bool) -> None:
    """Raises `ImportError` if wandb is not installed, and `ValueError` if it would ask for a login."""
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "WandbSink: found no wandb, expected it to be installed; run pip install 'tz[wandb]'."
        ) from error
    modes = os.environ.get("WANDB_MODE"), "offline" if offline else None
    if {"offline", "disabled", "dryrun"} & set(modes) or os.environ.get("WANDB_API_KEY"):
        return
    api = getattr(wandb, "api", None)
    if api is not None and getattr(api, "api_key", None) is None:
        raise ValueError(
            "wandb: found no login, expected one; log in with `wandb login`, or give --wandb-offline and upload the "
            "run later with `wandb sync`."
        )


_GROUPS = {
    "speed": r"(moves|simulations)_per_second|seconds|elapsed_seconds",
    "self_play": r"moves|episodes|truncated|mean_length|mean_return|return_spread|replay_known|total_(moves|games)",
    "training": r"loss|.*_loss|.*_loss_floor|gradient_norm|.*entropy|.*_steps|policy_.*|value_.*",
    "tests": r".*_(score|wins|draws|losses|unfinished|rung|height|replaced|return|low|high)|elo.*",
}


def tag_of(name: str) -> str:
    """Returns the name of a metric with the group in which TensorBoard shows it, such as `self_play/mean_length`."""
    for group, pattern in _GROUPS.items():
        if re.fullmatch(pattern, name):
            return f"{group}/{name}"
    return name


class TensorBoardSink:
    """Writes the metrics to event files for TensorBoard: numbers as curves and text as text.

    Metrics that are None are left out. The metrics of the loop are in groups: `training/loss`, `self_play/mean_length`,
    `speed/moves_per_second`, `tests/random_score`.

    **Arguments:**

    - `folder`: the folder of the event files.
    - `settings`: the settings of the run, shown as text.

    **Raises:** `ImportError` if tensorboardX is not installed.
    """

    def __init__(self, folder: str | pathlib.Path, *, settings: Mapping[str, Any] | None = None):
        try:
            from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                "TensorBoardSink: found no tensorboardX, expected it to be installed; run "
                "pip install 'tz[tensorboard]'."
            ) from error
        self.writer = SummaryWriter(str(folder))
        if settings is not None:
            self.writer.add_text("settings", f"```\n{json.dumps(settings, indent=1)}\n```")

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        """Writes the metrics of an epoch to the disk."""
        epoch = int(metrics["epoch"])
        for name, value in metrics.items():
            value = plain(value)
            if isinstance(value, str):
                self.writer.add_text(tag_of(name), value, epoch)
            elif value is not None and name != "epoch":
                self.writer.add_scalar(tag_of(name), float(value), epoch)
        self.writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self.writer.close()


def run_facts() -> dict[str, Any]:
    """Returns facts about the environment of a run, to be saved with its settings.

    **Returns:** a dict that JSON can hold: `versions`, of Python and the main packages; `devices`, their number and
    kind; `git`, the revision of the working directory, None if there is none; `command`, the command line. A version is
    None if the package has no metadata, for example for tz in a checkout that is only on the PYTHONPATH.
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
    """Calls the sinks, in the first process only. An exception of a sink becomes a warning, and training continues."""
    for sink in sinks if jax.process_index() == 0 else ():
        try:
            sink(metrics)
        except Exception as error:
            name = getattr(sink, "__qualname__", type(sink).__name__)
            warnings.warn(
                f"train_loop: found that the sink {name} failed in epoch {metrics['epoch']} ({error!r:.500}), expected "
                "no exception; fix the sink. Training continues, but the metrics of this epoch may be lost there.",
                stacklevel=3,
            )


def told(progress: bool | Callable[[str], None]) -> Callable[[str], None]:
    """Returns `progress` if it is a function, and otherwise a function that does nothing."""
    return progress if callable(progress) else lambda phase: None


def bar(total: int | None, unit: str, shown: bool, **options: Any) -> tqdm:
    """Returns a progress bar, which is shown only in a terminal or a notebook."""
    shown = shown and (sys.stderr.isatty() or "ipykernel.zmqshell" in sys.modules)
    if not shown:
        return tqdm(total=total, disable=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in a notebook without widgets the bar is text, which needs no warning
        from tqdm.auto import tqdm as bar_of_place
    return bar_of_place(total=total, unit=unit, **options)
