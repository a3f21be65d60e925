"""The curves of runs."""

import json
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tz.plot.canvas import BLUE, GREY, ORANGE, figure_of, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, int | float]]

_COUNTED = {"elapsed": "seconds", "games": "episodes", "moves": "moves", "steps": "gradient_steps"}
_TITLES = {"loss": "What it learns", "score": "Score in tests", "Elo": "Rating in tests", "return": "Return"}
_LOSSES = ("policy_loss", "value_loss")
_COLORS = (BLUE, ORANGE, "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "black")  # Okabe and Ito's
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))


def read_metrics(path: str | pathlib.Path) -> list[dict[str, int | float]]:
    """The rows that a [`tz.JsonLinesSink`][] wrote, with NaN where it had a number that JSON has not."""
    rows = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]


def plot_learning(
    runs: Rows | str | pathlib.Path | Mapping[str, Rows | str | pathlib.Path], *, x: str = "epoch"
) -> "Figure":
    """Draws losses, testers' scores, Elo and returns of a run, or of several together.

    **Arguments:** `runs`, the metrics of each epoch as sinks get them, the file of a [`tz.JsonLinesSink`][], or the
    folder of a run; or several of these by their names. Rows with a `seed`, such as those of
    [`tz.runs.train_seeds`][], are drawn as the mean over seeds, with a band: the 95 % interval of the mean by Student's
    t; a seed without a finite number is left out. `x`, what is on the horizontal axis: `"epoch"`; `"minutes"` or
    `"hours"`, the sum of the epochs' `seconds`; `"games"`, `"moves"` or `"steps"`, those so far; or any metric.

    **Returns:** the figure: losses; scores from 0 (all lost) to 1 (all won), with a line at one half; Elo with its
    confidence interval; and the returns of a game for one, of self-play and with their interval of a
    [`tz.matches.ReturnTester`][]. What no run has is left out. The targets change as self-play does, and the losses
    with them. So the policy loss is drawn above its floor, the entropy of the targets, and the value loss less that of
    the best constant: below 0, the network tells positions apart. A run without the metrics `policy_loss_floor` and
    `value_loss_floor` shows the losses themselves.

    **Raises:** `ValueError` where there is nothing to draw, or a run has no such `x`.
    """
    x = f"{x} so far" if x in ("games", "moves", "steps") else x
    named = runs if isinstance(runs, Mapping) else {"": runs}
    read = {
        name: _mean_of_seeds(read_metrics(_file(run)) if isinstance(run, str | pathlib.Path) else run)
        for name, run in named.items()
    }
    if missing := [name for name, rows in read.items() if not any(x in row for row in rows)]:
        found = sorted({key for rows in read.values() for row in rows for key in row})
        raise ValueError(f"No row of run {missing[0]!r} has {x!r} for the horizontal axis; found {', '.join(found)}.")
    panels = {"loss": _losses, "score": _scores, "Elo": _elo, "return": _returns}
    picked = {label: {name: pick(rows) for name, rows in read.items()} for label, pick in panels.items()}
    shown = {label: metrics for label, metrics in picked.items() if any(metrics.values())}
    if not shown:
        raise ValueError("Nothing to draw: the rows have no losses, no scores, no Elo and no returns.")
    axes = new_axes(len(shown), (4.8 * len(shown), 3.4))
    for ax, (label, metrics) in zip(axes, shown.items(), strict=True):
        _draw_panel(ax, read, metrics, x)
        ax.set(xlabel=x, ylabel=label, title=_TITLES[label])
        if label == "score":
            ax.axhline(0.5, color=GREY, linewidth=0.8)
            ax.set_ylim(-0.03, 1.03)
    limits = [ax.get_xlim() for ax in axes]
    for ax in axes:  # the first test may come late, and the panels begin and end together all the same
        ax.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
    return figure_of(axes[0])


def _file(path: str | pathlib.Path) -> pathlib.Path:
    """Return the file of metrics of a run, given that file or the folder of the run."""
    path = pathlib.Path(path)
    found = path / "metrics.jsonl" if path.is_dir() else path
    if not found.exists():
        raise ValueError(f"plot_learning: found no {found}, expected the metrics of a run; give its folder.")
    return found


def _mean_of_seeds(rows: Rows) -> list[dict[str, int | float]]:
    """The rows with what is derived from them; those of several seeds become one an epoch, the mean of each metric."""
    seeds: dict[Any, list] = {}
    for row in rows:
        seeds.setdefault(row.get("seed"), []).append(row)
    each = [_with_derived(rows) for rows in seeds.values()]
    if len(each) < 2:
        return each[0] if each else []
    epochs: dict[Any, list] = {}
    for row in (row for rows in each for row in rows):
        epochs.setdefault(row["epoch"], []).append(row)
    return [_mean_row(epochs[epoch]) for epoch in sorted(epochs)]


def _mean_row(rows: Rows) -> dict[str, int | float]:
    """The means over seeds, and where there are several, the ends of their 95 % intervals."""
    from scipy import stats

    mean = {}
    for name in {name: None for row in rows for name in row if name != "seed"}:
        values = [x for row in rows if isinstance(x := row.get(name), int | float) and math.isfinite(x)]
        mean[name] = statistics.fmean(values) if values else math.nan
        if len(values) > 1:
            margin = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
            mean |= {f"{name}_seeds_low": mean[name] - margin, f"{name}_seeds_high": mean[name] + margin}
    return mean


def _with_derived(rows: Rows) -> list[dict[str, int | float]]:
    """The rows, with what there was so far and with the losses above their floors."""
    totals, derived = dict.fromkeys(_COUNTED, 0.0), []
    for row in rows:
        more = {}
        for name, counted in _COUNTED.items():
            if counted in row:
                totals[name] += row[counted]
                more[f"{name} so far"] = totals[name]
        if "seconds" in row:
            more |= {"minutes": totals["elapsed"] / 60, "hours": totals["elapsed"] / 3600}
        floors = {name: f"{name}_floor" for name in _LOSSES if name in row and f"{name}_floor" in row}
        derived.append({**row, **more} | {f"{name}_excess": row[name] - row[floor] for name, floor in floors.items()})
    return derived


def _losses(rows: Rows) -> dict[str, str]:
    """The losses to draw: the name of the metric by its label."""
    keys = {key for row in rows for key in row}
    labels = {"policy loss above its floor": "policy_loss_excess", "value loss minus a constant's": "value_loss_excess"}
    excess = {label: name for label, name in labels.items() if name in keys}
    return excess or {name.replace("_", " "): name for name in _LOSSES if name in keys}


def _scores(rows: Rows) -> dict[str, str]:
    keys = sorted({key for row in rows for key in row if key.endswith("_score")})
    return {f"against {name.removesuffix('_score')}": name for name in keys}


def _elo(rows: Rows) -> dict[str, str]:
    found = {key for row in rows for key in row}
    keys = sorted(key for key in found if not key.endswith("_return"))
    keys = [name for name in keys if not name.endswith("_score")]
    return {name.replace("_", ", "): name for name in keys if {f"{name}_low", f"{name}_high"} <= found}


def _returns(rows: Rows) -> dict[str, str]:
    """Returns, unless there are scores or Elo: those are of two players, whose mean return says little."""
    if _scores(rows) or _elo(rows):
        return {}
    keys = {key for row in rows for key in row}
    labels = {"self-play": "mean_return"} if "mean_return" in keys else {}
    tested = sorted(key for key in keys if key.endswith("_return") and f"{key}_low" in keys)
    return labels | {name.removesuffix("_return").replace("_", ", "): name for name in tested}


def _draw_panel(ax: "Axes", runs: Mapping[str, Rows], metrics: Mapping[str, Mapping[str, str]], x: str) -> None:
    """Runs differ by colour, metrics by line; with one run alone, metrics by both."""
    labels = list(dict.fromkeys(label for of_run in metrics.values() for label in of_run))
    for number, (run, rows) in enumerate(runs.items()):
        for label, name in metrics[run].items():
            kind = labels.index(label)
            color = _COLORS[(number if len(runs) > 1 else kind) % len(_COLORS)]
            points = [row for row in rows if name in row and x in row]
            ax.plot(
                [row[x] for row in points],
                [row[name] for row in points],
                color=color,
                linestyle=_LINES[kind % len(_LINES)],
                marker="osD^v*P"[kind % 7] if len(points) < 40 and not name.startswith(_LOSSES) else None,
                markersize=4,
                label=", ".join(part for part in (run, label) if part),
            )
            for band in (f"{name}_seeds", name):
                within = [row for row in points if f"{band}_low" in row and f"{band}_high" in row]
                if within:
                    low, high = ([row[f"{band}_{end}"] for row in within] for end in ("low", "high"))
                    ax.fill_between([row[x] for row in within], low, high, color=color, alpha=0.2, linewidth=0)
                    break
    if x == "epoch":
        ax.locator_params(axis="x", integer=True)
    ax.spines[["top", "right"]].set_visible(False)
    if num_labels := len(ax.get_legend_handles_labels()[0]):
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18)} if num_labels > 4 else {}  # or it hides curves
        ax.legend(frameon=False, fontsize=8, **below)
