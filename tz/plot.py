"""Pictures of searches, runs and games. Matplotlib is imported only when something is drawn."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import PyTree

from tz.search import SearchState

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _ORANGE, _GREY = "#0072b2", "#e69f00", "#999999"  # told apart by the colour-blind, and in print


def _axes(ax: "Axes | None", num: int, size: tuple[float, float]) -> list["Axes"]:
    if ax is not None:
        return [ax] * num
    import matplotlib.pyplot as plt

    return list(np.atleast_1d(plt.subplots(1, num, figsize=size, layout="constrained")[1]))


def plot_root(
    state: SearchState, *, labels: Sequence[str] | None = None, max_actions: int = 12, ax: "Axes | None" = None
) -> "Axes":
    """Draws what a search thinks of its root: for the most visited actions the prior, the visits and the value.

    **Arguments:** `state` of one game, after [`tz.search`][]; `labels`, the names of all `A` actions; `max_actions`,
    how many to show.

    **Returns:** the axes, bars of prior and share of visits, with each action's `q` for the player to move above them.
    """
    (ax,) = _axes(ax, 1, (9, 3.2))
    visits, q, prior = np.asarray(state.root.visits), np.asarray(state.root.q), np.exp(np.asarray(state.root.logits))
    order = [int(a) for a in np.lexsort((-prior, -visits)) if prior[a] > 0][:max_actions]
    names = [str(a) for a in range(len(prior))] if labels is None else list(labels)
    share = visits / max(visits.sum(), 1)
    place = np.arange(len(order))
    ax.bar(place - 0.2, prior[order], 0.4, color=_GREY, label="prior")
    ax.bar(place + 0.2, share[order], 0.4, color=_BLUE, label="visits")
    for x, action in enumerate(order):
        text, height = f"{q[action]:+.2f}" if visits[action] else "-", float(max(prior[action], share[action]))
        ax.text(x, height + 0.01, text, ha="center", va="bottom", fontsize=9)
    ax.set_xticks(place, [names[action] for action in order])
    ax.set(xlabel="action", ylabel="share", title=f"{visits.sum()} visits; above the bars: q for the player to move")
    ax.margins(y=0.15)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax


def read_metrics(path: str | pathlib.Path) -> list[dict[str, float]]:
    """The rows that a [`tz.JsonLinesSink`][] wrote."""
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def plot_learning(rows: Sequence[Mapping[str, float]]) -> list["Axes"]:
    """Draws the losses and the testers' scores of a run, by epoch.

    **Arguments:** `rows`, the metrics of each epoch, as sinks get them or [`tz.plot.read_metrics`][] reads them.

    **Returns:** two axes: losses, and scores from 0 (all lost) to 1 (all won) with a line at one half.
    """
    losses, scores = _axes(None, 2, (10, 3.4))

    def draw(ax, name, label, **style):
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        ax.plot(*zip(*points, strict=True), label=label, **style)

    names = {name for row in rows for name in row}
    for name, color, line in (("policy_loss", _BLUE, "-"), ("value_loss", _ORANGE, "--")):
        if name in names:
            draw(losses, name, name.replace("_", " "), color=color, linestyle=line)
    for name, marker in zip(sorted(n for n in names if n.endswith("_score")), "os^Dv*" * 4, strict=False):
        draw(scores, name, f"against {name.removesuffix('_score')}", marker=marker, markersize=4)
    scores.axhline(0.5, color=_GREY, linewidth=0.8)
    scores.set(xlabel="epoch", ylabel="score", ylim=(-0.03, 1.03))
    losses.set(xlabel="epoch", ylabel="loss")
    for ax in (losses, scores):
        ax.locator_params(axis="x", integer=True)
        ax.spines[["top", "right"]].set_visible(False)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False)
    return [losses, scores]


def save_game(states: PyTree, path: str | pathlib.Path, *, seconds_per_move: float = 0.7) -> None:
    """Writes a game of pgx as an animated SVG, which any browser shows.

    **Arguments:** `states`, of pgx, with a leading axis of moves, such as [`tz.replay_game`][] returns; `path`, which
    ends in `.svg`.
    """
    import jax
    import pgx

    num_states = np.asarray(states.current_player).shape[0]
    frames = [jax.tree.map(lambda x, i=i: x[i], states) for i in range(num_states)]
    pgx.save_svg_animation(frames, str(path), frame_duration_seconds=seconds_per_move)


def action_names(height: int, width: int, others: Sequence[str] = ("pass",)) -> list[str]:
    """Names of the actions of a board game, row by row: `a1`, `b1`, … and then the others."""
    cells = [f"{chr(ord('a') + column)}{row + 1}" for row in range(height) for column in range(width)]
    return [*cells, *others]
