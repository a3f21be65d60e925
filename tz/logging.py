"""Metric sinks: where the training loop's metrics go. A sink is any `dict -> None`, called once an epoch."""

import json
import pathlib
from collections.abc import Callable, Mapping

from tqdm import tqdm

Sink = Callable[[Mapping[str, int | float]], None]


def console_sink(metrics: Mapping[str, int | float]) -> None:
    """Prints one line an epoch, above a progress bar where there is one."""

    def text(value: int | float) -> str:
        return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3f}"

    tqdm.write("  ".join(f"{name} {text(value)}" for name, value in metrics.items()))


class JsonLinesSink:
    """Appends one JSON object an epoch to a file, whose folder is made where it is missing."""

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, metrics: Mapping[str, int | float]) -> None:
        """Appends one line."""
        with self.path.open("a") as file:
            file.write(json.dumps(dict(metrics)) + "\n")


class WandbSink:
    """Logs to a project of Weights & Biases.

    **Arguments:** `project`, its name; further keywords go to `wandb.init`.

    **Raises:** `ImportError` where wandb is not installed.
    """

    def __init__(self, project: str, **kwargs):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError("WandbSink needs wandb: pip install 'tz[wandb]'") from error
        self.run = wandb.init(project=project, **kwargs)

    def __call__(self, metrics: Mapping[str, int | float]) -> None:
        """Logs one epoch."""
        self.run.log(dict(metrics))
