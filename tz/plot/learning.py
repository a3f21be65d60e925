"""Draws the curves of runs: losses, scores, ratings and returns."""

import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tz.plot.canvas import BLUE, GREY, ORANGE, figure_of, new_axes
from tz.runs.sinks import metric_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, int | float]]

# The totals by name, each with the metric that it sums.
_COUNTED = {"elapsed": "seconds", "games": "episodes", "moves": "moves", "steps": "gradient_steps"}
_TITLES = {"loss": "What it learns", "score": "Score in tests", "Elo": "Rating in tests", "return": "Return"}
_LOSSES = ("policy_loss", "value_loss")
_COLORS = (BLUE, ORANGE, "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "black")  # Okabe and Ito's
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))


def read_metrics(path: str | pathlib.Path) -> list[dict[str, int | float]]:
    """Reads the metrics that a [`tz.JsonLinesSink`][] wrote.

    **Arguments:**

    - `path`: the file, such as `metrics.jsonl` in the folder of a run.

    **Returns:** a list with the metrics of each epoch by name. NaN replaces `null`, which the sink writes for numbers
    that JSON does not have. Lines that were cut off, as on a full disk, are left out.
    """
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in metric_rows(path)]


def plot_learning(
    runs: Rows | str | pathlib.Path | Mapping[str, Rows | str | pathlib.Path], *, x: str = "epoch"
) -> "Figure":
    """Draws the losses, scores, Elo ratings and returns of one or several runs.

    Each kind of curve has a panel, and kinds that no run has are left out:

    - Losses. The targets change with self-play, and so do the losses. For this reason, the policy loss is drawn minus
        its floor, the entropy of the targets, and the value loss minus the loss of the best constant prediction. If
        the latter is below 0, the network tells positions apart. A run without the metrics `policy_loss_floor` and
        `value_loss_floor` shows the losses themselves.
    - Scores of testers, from 0 (all lost) to 1 (all won), with a line at one half.
    - Elo ratings, with their confidence intervals.
    - Returns in a game for one player: the mean return of self-play, and the return of a
        [`tz.matches.ReturnTester`][] with its interval. A run with scores or ratings shows no returns.

    Rows with a `seed`, such as [`tz.runs.train_seeds`][] makes, are drawn as the mean over the seeds, with a band
    for its 95 % interval by Student's t. Where the number of a seed is not finite, that seed is left out.

    **Arguments:**

    - `runs`: the metrics of each epoch, as sinks get them, or the file of a [`tz.JsonLinesSink`][], or the folder of a
        run. For several runs, a dictionary of these by the names of the runs.
    - `x`: the horizontal axis: `"epoch"`; `"minutes"` or `"hours"`, the sum of the epochs' `seconds`; `"games"`,
        `"moves"` or `"steps"`, the numbers so far; or the name of any metric.

    **Returns:** the figure.

    **Raises:** `ValueError` if there is nothing to draw, a run does not have `x`, or a file is missing.
    """
    x = f"{x} so far" if x in ("games", "moves", "steps") else x
    named = runs if isinstance(runs, Mapping) else {"": runs}
    read = {
        name: _mean_of_seeds(read_metrics(_file(run)) if isinstance(run, str | pathlib.Path) else run)
        for name, run in named.items()
    }
    if missing := [name for name, rows in read.items() if not any(x in row for row in rows)]:
        found = sorted({key for rows in read.values() for row in rows for key in row})
        raise ValueError(
            f"plot_learning: found no {x!r} in the rows of run {missing[0]!r}, expected it for the horizontal axis; "
            f"choose one of: {', '.join(found)}."
        )
    panels = {"loss": _losses, "score": _scores, "Elo": _elo, "return": _returns}
    picked = {label: {name: pick(rows) for name, rows in read.items()} for label, pick in panels.items()}
    shown = {label: metrics for label, metrics in picked.items() if any(metrics.values())}
    if not shown:
        raise ValueError(
            "plot_learning: found rows without losses, scores, Elo or returns, expected one of these; give the metrics "
            "of a run that has trained."
        )
    width, height = 4.8 * len(shown), 3.4
    axes, num_lines = new_axes(len(shown), (width, height)), []
    for ax, (label, metrics) in zip(axes, shown.items(), strict=True):
        num_lines.append(_draw_panel(ax, read, metrics, x))
        ax.set(xlabel=x, ylabel=label, title=_TITLES[label])
        if label == "score":
            ax.axhline(0.5, color=GREY, linewidth=0.8)
            ax.set_ylim(-0.03, 1.03)
    figure_of(axes[0]).set_figheight(height + 0.17 * max(num_lines))  # the legends are below the axes
    limits = [ax.get_xlim() for ax in axes]
    for ax in axes:  # tests may begin later than losses, but all panels should have the same axis
        ax.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
    return figure_of(axes[0])


def _file(path: str | pathlib.Path) -> pathlib.Path:
    """Returns the file of metrics of a run, from that file or the folder of the run."""
    path = pathlib.Path(path)
    found = path / "metrics.jsonl" if path.is_dir() else path
    if not found.exists():
        raise ValueError(
            f"plot_learning: found no file {found}, expected the metrics of a run; give the folder of the run."
        )
    return found


def _mean_of_seeds(rows: Rows) -> list[dict[str, int | float]]:
    """Returns the rows with derived metrics. Rows of several seeds become one row for each epoch, with the means."""
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
    """Returns the means over seeds, with the ends of the 95 % interval where several seeds have a finite number."""
    from scipy import stats

    mean = {}
    for name in {name: None for row in rows for name in row if name != "seed"}:  # a dict keeps the order of the names
        values = [x for row in rows if isinstance(x := row.get(name), int | float) and math.isfinite(x)]
        mean[name] = statistics.fmean(values) if values else math.nan
        if len(values) > 1:
            margin = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
            mean |= {f"{name}_seeds_low": mean[name] - margin, f"{name}_seeds_high": mean[name] + margin}
    return mean


def _with_derived(rows: Rows) -> list[dict[str, int | float]]:
    """Returns the rows with totals so far, and with the losses minus their floors."""
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
    """Chooses the losses to draw; returns the names of metrics by their labels, as the functions below do too."""
    keys = {key for row in rows for key in row}
    labels = {"policy loss above its floor": "policy_loss_excess", "value loss minus a constant's": "value_loss_excess"}
    excess = {label: name for label, name in labels.items() if name in keys}
    return excess or {name.replace("_", " "): name for name in _LOSSES if name in keys}


def _scores(rows: Rows) -> dict[str, str]:
    """Chooses the scores of testers."""
    keys = sorted({key for row in rows for key in row if key.endswith("_score")})
    return {f"against {name.removesuffix('_score')}": name for name in keys}


def _elo(rows: Rows) -> dict[str, str]:
    """Chooses the ratings: all metrics with an interval that are neither scores nor returns."""
    found = {key for row in rows for key in row}
    keys = sorted(key for key in found if not key.endswith("_return"))
    keys = [name for name in keys if not name.endswith("_score")]
    return {name.replace("_", ", "): name for name in keys if {f"{name}_low", f"{name}_high"} <= found}


def _returns(rows: Rows) -> dict[str, str]:
    """Chooses the returns, unless there are scores or ratings: the mean return of two players says little."""
    if _scores(rows) or _elo(rows):
        return {}
    keys = {key for row in rows for key in row}
    labels = {"self-play": "mean_return"} if "mean_return" in keys else {}
    tested = sorted(key for key in keys if key.endswith("_return") and f"{key}_low" in keys)
    return labels | {name.removesuffix("_return").replace("_", ", "): name for name in tested}


def _draw_panel(ax: "Axes", runs: Mapping[str, Rows], metrics: Mapping[str, Mapping[str, str]], x: str) -> int:
    """Draws one panel and returns the number of its lines.

    Runs differ by colour and metrics by line; with a single run, metrics differ by both.
    """
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
            for band in (f"{name}_seeds", name):  # the interval over seeds, or else the metric's own
                within = [row for row in points if f"{band}_low" in row and f"{band}_high" in row]
                if within:
                    low, high = ([row[f"{band}_{end}"] for row in within] for end in ("low", "high"))
                    ax.fill_between([row[x] for row in within], low, high, color=color, alpha=0.2, linewidth=0)
                    break
    if x == "epoch":
        ax.locator_params(axis="x", integer=True)
    ax.spines[["top", "right"]].set_visible(False)
    if num_labels := len(ax.get_legend_handles_labels()[0]):
        # Inside the axes, a legend would hide curves. The pad, in units of the font size, leaves room for the axis.
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4.5, frameon=False, fontsize=8)
    return num_labels
