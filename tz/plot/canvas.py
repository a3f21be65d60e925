"""Parts that all pictures share: colours, figures, names of moves, and drawings of positions as images."""

import functools
import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import jax
import numpy as np
from jaxtyping import PyTree

from tz.games.env import Env
from tz.games.names import label_of

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072b2", "#e69f00", "#999999"  # can be told apart by colour-blind readers and in grey print

_BUTTONS = {
    "minus": "&minus;",
    "fast-backward": "|&#9664;&#9664;",
    "step-backward": "|&#9664;",
    "play fa-flip-horizontal": "&#9664;",
    "pause": "||",
    "play": "&#9654;",
    "step-forward": "&#9654;|",
    "fast-forward": "&#9654;&#9654;|",
    "plus": "+",
}

Draw = Callable[[PyTree], "str | np.ndarray"]
"""Draws one position: `state -> SVG text`, or `state -> image [H, W, 3]`."""


def new_axes(
    columns: int, size: tuple[float, float], rows: int = 1, heights: Sequence[float] | None = None
) -> list["Axes"]:
    """Makes a figure and returns its axes.

    The figure is closed at once, so pyplot does not keep it. A notebook shows it if it is the value of a cell.
    """
    import matplotlib.pyplot as plt

    ratios = None if heights is None else heights[:rows]
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, height_ratios=ratios)
    plt.close(figure)
    return list(axes.flat)


def figure_of(ax: "Axes") -> "Figure":
    """Returns the figure or subfigure that contains the axes."""
    return cast("Figure", ax.figure)


def player_of_frames(
    figure: "Figure", draw_frame: Callable[[int], None], num_frames: int, seconds: float
) -> "FuncAnimation":
    """Makes an animation that a notebook shows with buttons, and that loads nothing from the web."""
    from matplotlib.animation import FuncAnimation

    class Player(FuncAnimation):
        def _repr_html_(self) -> str:
            html = re.sub(r"<link[^>]*>", "", self.to_jshtml())  # the symbols on the buttons are in a web font
            return re.sub(r'<i class="fa fa-([^"]*)"></i>', lambda match: _BUTTONS[match[1]], html)

    figure.set_dpi(72)
    interval = round(1000 * seconds)
    return Player(figure, draw_frame, frames=num_frames, init_func=lambda: None, interval=interval, repeat=False)


def one_of_batch(state: Any, index: int | None, batch_shape: tuple[int, ...]) -> Any:
    """Returns the state of one game, from the state of one game or of a batch with one axis.

    **Raises:** `ValueError` if there is a batch without an index, an index without a batch, a batch with several axes,
    or an index out of range.
    """
    if len(batch_shape) == 0:
        if index is not None:
            raise ValueError(
                f"tz.plot: found index={index} and the state of one game, expected no index; leave it out."
            )
        return state
    if index is None or len(batch_shape) > 1:
        shape = list(batch_shape)
        raise ValueError(
            f"tz.plot: found the state of a batch {shape} of games, expected one game, or a batch [G] and the number "
            "of a game; choose a game with `index`."
        )
    (num_games,) = batch_shape
    if not -num_games <= index < num_games:
        raise ValueError(
            f"tz.plot: found index={index}, expected one from {-num_games} to {num_games - 1}, as there are "
            f"{num_games} games; choose one of them."
        )
    return jax.tree.map(lambda x: x[index], state)


def check_names(names: Sequence[str] | None, num_actions: int) -> list[str]:
    """Returns the names of all actions: those given, or their numbers.

    **Raises:** `ValueError` unless there is one name for each action.
    """
    if names is not None and len(names) != num_actions:
        raise ValueError(
            f"tz.plot: found {len(names)} names in `labels`, expected {num_actions}, one for each action; name all."
        )
    return [str(action) for action in range(num_actions)] if names is None else list(names)


def check_limits(where: str, **limits: int | None) -> None:
    """Raises `ValueError` if a limit is below 1."""
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise ValueError(f"{where}: found {name}={limit}, expected at least 1; raise it.")


def check_states_of(env: Env, state: Any) -> None:
    """Raises `ValueError` if the states in a tree are not those of a game, as after a search with a model."""
    start = jax.eval_shape(env.init, jax.random.key(0))[0]
    found, expected = jax.tree.structure(state.tree.state), jax.tree.structure(start)
    if found != expected:
        raise ValueError(
            f"tz.plot: found a search whose states are not those of {env.name}, expected them, to name the moves and "
            "to draw positions; leave env out, and give labels= to name the moves."
        )


MoveName = Callable[[int, int], str]
"""Names a move: `(node, action) -> str`, where `node` is the number of the node in which the move is made."""


def move_names(state: Any, labels: Sequence[str] | None, env: Any) -> MoveName:
    """Returns a function that names the moves of a tree: by `labels`, or else by the game, or else by numbers.

    **Raises:** `ValueError` unless there is one label for each action.
    """
    names = check_names(labels, len(state.metadata.action_mask))
    if labels is not None or not isinstance(env, Env) or env.label is None:  # a model names no moves
        return lambda node, action: names[action]
    check_states_of(env, state)
    positions = jax.device_get(state.tree.state)

    @functools.cache
    def position(node: int) -> PyTree:
        """Returns the environment's state at a node, from which the game names the moves."""
        return jax.tree.map(lambda x: x[node], positions)

    return lambda node, action: label_of(env, position(node), action)


def signed(value: float | np.floating) -> str:
    """Formats a value with its sign and two decimals; zero has no sign, and values of 100 or more no decimals."""
    if abs(value) >= 99.95:
        return f"{value:+.0f}"
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}"


def value_limits(values: Iterable[float | np.floating]) -> tuple[float, float]:
    """Returns the ends of an axis or a colour scale: -1 and 1, or the range of the values if it exceeds these.

    If there are values of both signs, 0 is in the middle. Values that are not finite are ignored.
    """
    finite = [float(x) for x in values if np.isfinite(x)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    if max(-low, high) <= 1.001:  # with room for rounding errors
        return -1.0, 1.0
    if low < 0 < high:
        return -max(-low, high), max(-low, high)
    return (low, high) if low < high else (low - 1, high + 1)


def picture(draw: Draw, state: PyTree, width: int) -> np.ndarray:
    """Draws a position as an image `[H, W, 3]` or `[H, W, 4]`; an SVG is rendered in the given width.

    **Raises:** `ImportError` for an SVG if resvg is not installed.
    """
    drawing = draw(state)
    if not isinstance(drawing, str):
        return np.asarray(drawing)
    try:
        import resvg_py  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "tz.plot: found no resvg, expected it for a board that is drawn from SVG; run pip install 'tz[pictures]'."
        ) from error
    import matplotlib
    from matplotlib.pyplot import imread

    fonts = matplotlib.get_data_path() + "/fonts/ttf"
    family = "DejaVu Sans"  # replaces fonts that are not installed, whose text resvg would leave out
    options = {"background": "white", "font_dirs": [fonts], "serif_family": family}
    png = resvg_py.svg_to_bytes(svg_string=drawing, width=width, **options)
    return imread(io.BytesIO(bytes(png)))
