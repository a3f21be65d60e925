"""What all pictures share: colours, figures, and drawings of positions as images."""

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

BLUE, ORANGE, GREY = "#0072b2", "#e69f00", "#999999"  # told apart by the colour-blind, and in print

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
"""Draws one position: `state -> SVG text`, or an image `[H, W, 3]`."""


def new_axes(
    columns: int, size: tuple[float, float], rows: int = 1, heights: Sequence[float] | None = None
) -> list["Axes"]:
    """The axes of a new figure, which pyplot does not keep: it is shown where it is the value of a notebook's cell."""
    import matplotlib.pyplot as plt

    ratios = None if heights is None else heights[:rows]
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, height_ratios=ratios)
    plt.close(figure)
    return list(axes.flat)


def figure_of(ax: "Axes") -> "Figure":
    """The figure that axes are in, or the part of one."""
    return cast("Figure", ax.figure)


def player_of_frames(
    figure: "Figure", draw_frame: Callable[[int], None], num_frames: int, seconds: float
) -> "FuncAnimation":
    """An animation that shows itself in a notebook, with buttons and without further files."""
    from matplotlib.animation import FuncAnimation

    class Player(FuncAnimation):
        def _repr_html_(self) -> str:
            html = re.sub(r"<link[^>]*>", "", self.to_jshtml())  # a font of the web, for the signs on the buttons
            return re.sub(r'<i class="fa fa-([^"]*)"></i>', lambda match: _BUTTONS[match[1]], html)

    figure.set_dpi(72)
    interval = round(1000 * seconds)
    return Player(figure, draw_frame, frames=num_frames, init_func=lambda: None, interval=interval, repeat=False)


def one_of_batch(state: Any, index: int | None, batch_shape: tuple[int, ...]) -> Any:
    """The state of one game, from a state of one or, by its index, of several.

    **Raises:** `ValueError` where there are several and no index, one and an index, or not as many.
    """
    if len(batch_shape) == 0:
        if index is not None:
            raise ValueError(f"This is the state of one game, which has no game {index}: leave `index` out.")
        return state
    if index is None or len(batch_shape) > 1:
        shape = list(batch_shape)
        raise ValueError(f"This is the state of a batch {shape} of games, and one is drawn: say which with `index`.")
    (num_games,) = batch_shape
    if not -num_games <= index < num_games:
        raise ValueError(f"`index` is {index}, but there are {num_games} games.")
    return jax.tree.map(lambda x: x[index], state)


def check_names(names: Sequence[str] | None, num_actions: int) -> list[str]:
    """The names of all actions, their numbers by default.

    **Raises:** `ValueError` if there are not as many names as actions.
    """
    if names is not None and len(names) != num_actions:
        raise ValueError(f"`labels` has {len(names)} names, but the game has {num_actions} actions; name them all.")
    return [str(action) for action in range(num_actions)] if names is None else list(names)


MoveName = Callable[[int, int], str]
"""The name of a move: `(node, action) -> str`, where the node of the tree is the one in which it is made."""


def move_names(state: Any, labels: Sequence[str] | None, env: Env | None) -> MoveName:
    """The names of the moves in a tree of one game: those given, else those that the game has, else numbers.

    **Raises:** `ValueError` if there are not as many names as actions.
    """
    names = check_names(labels, len(state.metadata.action_mask))
    if labels is not None or env is None or env.label is None:
        return lambda node, action: names[action]
    positions = jax.device_get(state.tree.state)

    @functools.cache
    def position(node: int) -> PyTree:
        return jax.tree.map(lambda x: x[node], positions)

    return lambda node, action: label_of(env, position(node), action)


def signed(value: float | np.floating) -> str:
    """A value with its sign, and zero without one; above 100 without what follows the point, to stay short."""
    if abs(value) >= 99.95:
        return f"{value:+.0f}"
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}"


def value_limits(values: Iterable[float | np.floating]) -> tuple[float, float]:
    """The ends of an axis or a colour scale for values: -1 and 1 where they hold all, else what the values need.

    Where there are values of both signs, 0 is in the middle. Values that are not finite are left out.
    """
    finite = [float(x) for x in values if np.isfinite(x)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    if max(-low, high) <= 1.001:  # some results of 1 are rounded
        return -1.0, 1.0
    if low < 0 < high:
        return -max(-low, high), max(-low, high)
    return (low, high) if low < high else (low - 1, high + 1)


def picture(draw: Draw, state: PyTree, width: int) -> np.ndarray:
    """The drawing of a position as an image `[H, W, 3 or 4]`.

    **Raises:** `ImportError` for an SVG where resvg is not installed.
    """
    drawing = draw(state)
    if not isinstance(drawing, str):
        return np.asarray(drawing)
    try:
        import resvg_py  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("Drawing a board from SVG needs resvg: pip install 'tz[pictures]'") from error
    import matplotlib
    from matplotlib.pyplot import imread

    fonts = matplotlib.get_data_path() + "/fonts/ttf"
    family = "DejaVu Sans"  # in the place of fonts that are not installed, whose text would be left out
    options = {"background": "white", "font_dirs": [fonts], "serif_family": family}
    png = resvg_py.svg_to_bytes(svg_string=drawing, width=width, **options)
    return imread(io.BytesIO(bytes(png)))
