"""Draws finished games, as animations and as strips of positions."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PyTree

from tz.games.boards import annotated, draw_board
from tz.games.env import Env
from tz.games.names import label_of
from tz.plot.canvas import (
    BLUE,
    GREY,
    ORANGE,
    Draw,
    check_limits,
    figure_of,
    new_axes,
    picture,
    player_of_frames,
    value_limits,
)

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure


def _states(states: PyTree) -> list[PyTree]:
    """Returns the positions of a game as a list of states with NumPy arrays."""
    states = jax.device_get(states)
    return [jax.tree.map(lambda x, i=i: x[i], states) for i in range(len(jax.tree.leaves(states)[0]))]


def render_game(
    states: PyTree,
    *,
    env: Env | None = None,
    draw: Draw | None = None,
    moves: ArrayLike | Sequence[int] | None = None,
    players: Sequence[str] = (),
    values: Mapping[str, ArrayLike] | None = None,
    title: str = "",
    seconds_per_move: float = 0.7,
) -> "FuncAnimation":
    """Animates a game move by move, with the players' estimates of its value below the board if there are any.

    **Arguments:**

    - `states`: the positions, with a leading axis, such as [`tz.replay_game`][] returns.
    - `env`: the game. It draws the boards, and `moves` and `players` need it.
    - `draw`: `state -> SVG text or image [H, W, 3]`, to replace the drawings of the game.
    - `moves`: the actions between the positions, to name them and to mark the last one on the board. Further actions
        are ignored, so `match.actions[game]` can be passed.
    - `players`: the names of the players, to show who plays which side. The player who moves in the first position
        comes first.
    - `values`: for each player's name, its estimates of all positions, `[number of positions]`. All are from the
        perspective of the same player, such as [`tz.matches.replay_values`][] returns.
    - `title`: the text above the board; by default, who plays which side.
    - `seconds_per_move`: the time in seconds for which a position is shown.

    **Returns:** the animation. A notebook shows it with buttons if it is the value of a cell, and
    `animation.save("game.gif")` writes a file.

    **Raises:** `ValueError` if the number of `values` or `moves` does not fit the positions, or `env` is missing where
    it is needed. `ImportError` for a board drawn from SVG if the extra `pictures` is not installed.

    **Example:**

    ```python
    match = tz.play_match(env, agent, tz.random_player(), num_games=2, key=jax.random.key(0))
    states = tz.replay_game(env, match, 0)
    tz.plot.render_game(states, env=env, moves=match.actions[0], players=("agent", "random"))
    ```
    """
    boards, names, sides = _pictures("render_game", _states(states), env, draw, moves, players, 360)
    values = _check_values(values, len(boards))
    title = title or sides
    board_ax, *value_axes = new_axes(1, (3.6, 5.0 if values else 3.9), rows=2 if values else 1, heights=(3.6, 1.1))
    for ax in value_axes:
        _draw_values(ax, values)
    markers = [ax.axvline(0, color="black", linewidth=1) for ax in value_axes]
    board_ax.set_axis_off()
    image = board_ax.imshow(boards[0])

    def frame(move: int) -> None:
        """Shows the position after a move."""
        image.set_data(boards[move])
        name = f": {names[move]}" if names[move] else ""
        above = f"{title}\n" if title else ""
        board_ax.set_title(f"{above}move {move} of {len(boards) - 1}{name}", fontsize=10)
        for marker in markers:
            marker.set_xdata([move, move])

    return player_of_frames(figure_of(board_ax), frame, len(boards), seconds_per_move)


def plot_game(
    states: PyTree,
    *,
    env: Env | None = None,
    draw: Draw | None = None,
    moves: ArrayLike | Sequence[int] | None = None,
    players: Sequence[str] = (),
    values: Mapping[str, ArrayLike] | None = None,
    max_boards: int = 12,
    columns: int = 6,
) -> "Figure":
    """Draws the positions of a game in rows, with the players' estimates below if there are any.

    **Arguments:**

    - `states`, `env`, `draw`, `moves`, `players`, `values`: as in [`tz.plot.render_game`][].
    - `max_boards`: the largest number of positions. A longer game is shown by positions that are evenly spread over it,
        including the first and the last.
    - `columns`: the number of positions in a row.

    **Returns:** the figure.

    **Raises:** the errors of [`tz.plot.render_game`][].
    """
    import matplotlib.pyplot as plt

    check_limits("plot_game", max_boards=max_boards, columns=columns)
    positions = _states(states)
    boards, names, sides = _pictures("plot_game", positions, env, draw, moves, players, 240)
    values = _check_values(values, len(positions))
    chosen = np.unique(np.linspace(0, len(positions) - 1, min(max_boards, len(positions))).round().astype(int))
    columns = min(columns, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    heights = [1.0] * rows + ([0.8] if values else [])
    figure = plt.figure(figsize=(1.6 * columns, 1.8 * sum(heights)), layout="constrained")
    plt.close(figure)
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for place in range(rows * columns):
        ax = figure.add_subplot(grid[place // columns, place % columns])
        ax.set_axis_off()
        if place < len(chosen):
            number = int(chosen[place])
            ax.imshow(boards[number])
            ax.set_title(f"{number}: {names[number]}" if names[number] else f"{number}", fontsize=9)
    if sides:
        figure.suptitle(sides, fontsize=10)
    if values:
        _draw_values(figure.add_subplot(grid[rows, :]), values)
    return figure


def _pictures(
    where: str,
    positions: list[PyTree],
    env: Env | None,
    draw: Draw | None,
    moves: ArrayLike | Sequence[int] | None,
    players: Sequence[str],
    width: int,
) -> tuple[list[np.ndarray], list[str], str]:
    """Returns an image of each position, the names of the moves that led to them, and who plays which side."""
    if env is None:
        if draw is None or moves is not None or players:
            raise ValueError(
                f"{where}: found no game, expected env=, which `moves` and `players` need, or `draw` alone; give one."
            )
        return [picture(draw, state, width) for state in positions], [""] * len(positions), ""
    boards, names, last = [draw_board(env, state) for state in positions], [""], [[]]
    actions = np.full(len(positions) - 1, -1) if moves is None else np.asarray(moves)
    if actions.ndim != 1 or len(actions) < len(positions) - 1:
        raise ValueError(
            f"{where}: found `moves` of shape {list(actions.shape)}, expected [{len(positions) - 1}], the actions "
            f"between {len(positions)} positions; give them all."
        )
    # Not strict: a match pads its actions, and the last position has no move.
    for state, board, action in zip(positions, boards, actions, strict=False):
        name = label_of(env, state, int(action)) if action >= 0 else ""
        names.append(name)
        last.append([board.spot(square) for square in board.squares_of(name)])
    names, last = names[: len(positions)], last[: len(positions)]
    first = boards[0]  # `players` begins with the player to move, so the sides must begin there too
    order = [*first.sides[first.to_move :], *first.sides[: first.to_move]]
    sides = ", ".join(f"{side}: {player}" for side, player in zip(order, players, strict=False))
    if draw is not None:
        return [picture(draw, state, width) for state in positions], names, sides
    drawings = [annotated(board, marks) for board, marks in zip(boards, last, strict=True)]
    return [picture(lambda _, svg=svg: svg, None, width) for svg in drawings], names, sides


def _check_values(values: Mapping[str, ArrayLike] | None, num_positions: int) -> dict[str, np.ndarray]:
    """Returns the values as NumPy arrays, and raises `ValueError` unless there is one for each position."""
    values = {name: np.asarray(value) for name, value in (values or {}).items()}
    for name, value in values.items():
        if value.shape != (num_positions,):
            raise ValueError(
                f"tz.plot: found `values` of {name!r} with shape {list(value.shape)}, expected [{num_positions}], one "
                "for each position, the first and the last included; give them all."
            )
    return values


def _draw_values(ax, values: Mapping[str, np.ndarray]) -> None:
    """Draws the estimates of all players over the moves of a game."""
    looks = zip((BLUE, ORANGE, GREY) * len(values), ("-", "--", ":") * len(values), strict=True)
    for (name, value), (color, line) in zip(values.items(), looks, strict=False):
        ax.plot(value, line, color=color, label=name)
    ax.axhline(0, color=GREY, linewidth=0.8)
    low, high = value_limits([0.0, *np.concatenate(list(values.values()))])
    margin = 0.04 * (high - low)
    ax.set(xlabel="move", ylabel="value", ylim=(low - margin, high + margin))
    ax.margins(x=0.02)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, ncols=len(values), loc="lower center", bbox_to_anchor=(0.5, 1.0))


def save_game(states: PyTree, path: str | pathlib.Path, *, seconds_per_move: float = 0.7) -> None:
    """Writes a game of pgx as an animated SVG, which any browser shows.

    Unlike the other drawings, it does not need the extra `pictures`. The MinAtar games of pgx have no such drawing.

    **Arguments:**

    - `states`: states of pgx with a leading axis of positions, such as [`tz.replay_game`][] returns.
    - `path`: the file, with a name that ends in `.svg`.
    - `seconds_per_move`: the time in seconds for which a position is shown.
    """
    import pgx

    pgx.save_svg_animation(_states(states), str(path), frame_duration_seconds=seconds_per_move)


def action_names(height: int, width: int, others: Sequence[str] = ("pass",)) -> list[str]:
    """Returns names for the actions of a board game, for `labels` of [`tz.plot.plot_tree`][] and others.

    Use it for a game whose [`tz.Env`][] names no moves, and whose actions are the cells of a board, row by row.

    **Arguments:**

    - `height`, `width`: the number of rows and columns.
    - `others`: the names of the actions that follow the cells.

    **Returns:** `height * width + len(others)` names: `a1`, `b1`, … row by row, and then the others.
    """
    cells = [f"{chr(ord('a') + column)}{row + 1}" for row in range(height) for column in range(width)]
    return [*cells, *others]
