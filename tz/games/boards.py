"""Drawings of positions with named squares, so that users can click on moves and numbers can be written on them."""

import base64
import dataclasses
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import numpy as np
from jaxtyping import PyTree

from tz._arguments import shown
from tz.games.env import Env
from tz.games.names import text_board

Number = int | float | np.number
Rect = tuple[Number, Number, Number, Number]
"""Left, top, width and height of a rectangle, in the units of the drawing."""

FONT = "DejaVu Sans, Segoe UI, Arial, sans-serif"
_LAST, _FIRST_CHOICE, _OTHER_CHOICE = "#e8890c", "#0072b2", "#5b6770"


@dataclasses.dataclass(frozen=True)
class Board:
    """A drawing of one position, with the places of its squares.

    A move belongs to the squares that its name mentions, such as `e2` and `e4` in `e2e4`, so a front end needs no other
    knowledge of the game.

    **Fields:**

    - `svg`: the drawing, as the text of an `<svg>` element.
    - `width`, `height`: the size of the drawing, in its own units.
    - `squares`: the area to click on for each square, by the name that moves use for it.
    - `spots`: the area for a mark or number on a square, where this is not the whole square. In Connect Four, for
        instance, a square is a column, and its spot is the cell that a disc would fall into.
    - `sides`: the names of the sides; empty in a game for one player.
    - `colors`: the color of each side, as SVG writes it.
    - `to_move`: the index in `sides` of the side to move.
    """

    svg: str
    width: Number
    height: Number
    squares: Mapping[str, Rect] = dataclasses.field(default_factory=dict)
    spots: Mapping[str, Rect] = dataclasses.field(default_factory=dict)
    sides: Sequence[str] = ()
    colors: Sequence[str] = ()
    to_move: int = 0

    def spot(self, square: str) -> Rect:
        """Returns the area for a mark on a square."""
        return self.spots.get(square, self.squares[square])

    def squares_of(self, name: str) -> tuple[str, ...]:
        """Returns the squares that the name of a move mentions, in that order; none for a move such as a pass."""
        if name in self.squares:
            return (name,)
        if not self.squares:
            return ()
        names = sorted(self.squares, key=len, reverse=True)  # longest first: "1" must not match the start of "12"
        pattern = "|".join(re.escape(square) for square in names)
        return tuple(re.findall(pattern, re.sub(r"\(.*?\)", "", name)))


def draw_board(env: Env, state: PyTree) -> Board:
    """Draws a position.

    **Arguments:**

    - `env`: the game.
    - `state`: the state of one game.

    **Returns:** the board of `env.board`. For a game without it, the picture of `env.draw` without squares, or else the
    text of [`tz.games.text_board`][] as a drawing.

    **Raises:** `ValueError` if `board`, `draw` or `text` of the game returns anything but what [`tz.Env`][] asks for.
    """
    if env.board is not None:
        board = env.board(state)
        if not isinstance(board, Board):
            raise ValueError(f"board of {env.name}: found {shown(board)}, expected a tz.games.Board; return one.")
        return _plain(env, board)
    if env.draw is None:
        return _text_drawing(text_board(env, state))
    drawing = env.draw(state)
    return _whole_svg(env, drawing) if isinstance(drawing, str) else _image(env, np.asarray(drawing))


def _plain(env: Env, board: Board) -> Board:
    """Returns the board with Python numbers, as a page needs them. Raises `ValueError` for a wrong number of colors."""
    if board.sides and board.colors and len(board.colors) != len(board.sides):
        raise ValueError(
            f"board of {env.name}: found {len(board.colors)} colors for {len(board.sides)} sides, expected one for "
            "each; add or remove some, or give none."
        )
    areas = {
        name: {square: tuple(map(float, area)) for square, area in getattr(board, name).items()}
        for name in ("squares", "spots")
    }
    sizes = {"width": float(board.width), "height": float(board.height), "to_move": int(board.to_move)}
    return dataclasses.replace(board, **areas, **sizes)


def _text_drawing(text: str) -> Board:
    lines = text.splitlines()[:60]
    width, height = 24 + 9.7 * max((len(line) for line in lines), default=1), 24 + 20 * len(lines)
    style = 'font-family="DejaVu Sans Mono, monospace" font-size="16" fill="#23282d" xml:space="preserve"'
    rows = "".join(f'<text x="12" y="{28 + 20 * n}" {style}>{escape(line)}</text>' for n, line in enumerate(lines))
    return Board(_svg(width, height, rows), width, height)


def _svg(width: Number, height: Number, content: str) -> str:
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{content}</svg>'


def _whole_svg(env: Env, drawing: str) -> Board:
    start = re.search(r"<svg\b[^>]*>", drawing)
    if start is None:
        raise ValueError(f"draw of {env.name}: found a text without <svg>, expected SVG; return that, or an image.")
    box = re.search(r'viewBox="[\d.e+-]+[ ,]+[\d.e+-]+[ ,]+([\d.e+-]+)[ ,]+([\d.e+-]+)"', start[0])
    sides = [re.search(rf'\b{name}="([\d.]+)', start[0]) for name in ("width", "height")]
    width, height = (float(box[n + 1]) if box else float(side[1]) if side else 400.0 for n, side in enumerate(sides))
    text = drawing[start.start() :]  # without the XML declaration, which belongs to files only
    if "</svg>" not in text:
        raise ValueError(f"draw of {env.name}: found an <svg> without its end, expected SVG; add </svg>.")
    return Board(text[: text.rindex("</svg>") + 6], width, height)


def _image(env: Env, image: np.ndarray) -> Board:
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise ValueError(
            f"draw of {env.name}: found an array of shape {image.shape}, expected [H, W, 3]; return an image with "
            "colors in its last axis."
        )
    if image.dtype.kind == "f":  # colors from 0 to 1
        image = np.clip(255 * image, 0, 255)
    height, width = image.shape[:2]
    link = "data:image/png;base64," + base64.b64encode(_png(image[:, :, :3].astype(np.uint8))).decode()
    scale = max(1.0, 400 / width)
    size = f'width="{scale * width:g}" height="{scale * height:g}" style="image-rendering: pixelated"'
    return Board(_svg(scale * width, scale * height, f'<image href="{link}" {size}/>'), scale * width, scale * height)


def _png(image: np.ndarray) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = image.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@dataclasses.dataclass(frozen=True)
class Note:
    """A note about a move, which is written on the last of its squares.

    **Fields:** `squares` of the move; up to two short `lines` of text; `strength`, from 0 to 1, the visibility of the
    note; `is_first`, whether this move is the first choice.
    """

    squares: Sequence[str]
    lines: Sequence[str]
    strength: Number
    is_first: bool = False


def annotated(board: Board, last: Sequence[Rect] = (), notes: Sequence[Note] = ()) -> str:
    """Returns the drawing of a board, with frames around the squares of the `last` move and notes on its squares."""
    marks = [_frame(rect, 0.45 if number < len(last) - 1 else 1.0) for number, rect in enumerate(last)]
    taken = set()  # two moves may end on one square, which has room for the stronger note only
    for note in sorted(notes, key=lambda note: (not note.is_first, -note.strength)):
        if not note.squares:
            continue
        if len(note.squares) > 1 and (note.strength >= 0.03 or note.is_first):
            marks.append(_arrow(board, note))
        if note.squares[-1] not in taken:
            taken.add(note.squares[-1])
            marks.append(_badge(board.spot(note.squares[-1]), note))
    return board.svg.replace("</svg>", "".join(marks) + "</svg>")


def _frame(rect: Rect, opacity: Number) -> str:
    x, y, w, h = rect
    return (
        f'<rect x="{x + 2:.1f}" y="{y + 2:.1f}" width="{w - 4:.1f}" height="{h - 4:.1f}" rx="6" fill="none" '
        f'stroke="{_LAST}" stroke-width="4" opacity="{opacity}"/>'
    )


def _middle(rect: Rect) -> tuple[Number, Number]:
    return rect[0] + rect[2] / 2, rect[1] + rect[3] / 2


def _arrow(board: Board, note: Note) -> str:
    (x0, y0), (x1, y1) = (_middle(board.spot(square)) for square in (note.squares[0], note.squares[-1]))
    color = _FIRST_CHOICE if note.is_first else _OTHER_CHOICE
    return (
        f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{color}" stroke-linecap="round" '
        f'stroke-width="{3 + 7 * note.strength:.1f}" opacity="{0.35 + 0.4 * note.strength:.2f}"/>'
    )


def _badge(rect: Rect, note: Note) -> str:
    (x, y), (_, _, w, h) = _middle(rect), rect
    size = min(w, h)
    color = _FIRST_CHOICE if note.is_first else _OTHER_CHOICE
    opacity = 0.94 if note.is_first else 0.6 + 0.3 * note.strength
    half, tall = 0.44 * size, (0.36 if len(note.lines) > 1 else 0.24) * size
    parts = [
        f'<rect x="{x - half:.1f}" y="{y - tall:.1f}" width="{2 * half:.1f}" height="{2 * tall:.1f}" '
        f'rx="{0.14 * size:.1f}" fill="{color}" opacity="{opacity:.2f}" stroke="#ffffff" stroke-width="1"/>'
    ]
    for line, text in enumerate(note.lines[:2]):
        below = 0.1 * size if len(note.lines) == 1 else (-0.05 + 0.28 * line) * size
        scale = 0.265 if len(note.lines) > 1 or len(text) > 4 else 0.32
        parts.append(label(x, y + below, text, scale * size, "#ffffff", weight="bold" if line == 0 else "normal"))
    return "".join(parts)


def label(x: Number, y: Number, text: str, size: Number, color: str, *, weight: str = "normal") -> str:
    """Returns an SVG text that is centred at `x` and has its baseline at `y`."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="{FONT}" font-size="{size:.1f}" font-weight="{weight}" '
        f'fill="{color}" text-anchor="middle">{escape(text)}</text>'
    )
