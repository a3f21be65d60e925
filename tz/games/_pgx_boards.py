"""Drawings of the games of pgx, made from their diagrams in the style that players know."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tz.games._pgx_names import Diagram, family_of, notation_of
from tz.games.boards import Board, Number, Rect, label

if TYPE_CHECKING:
    import pgx

_CELL = 60.0
_INK, _GREY = "#23282d", "#626b73"
_COLORS = {
    "X": "#0072b2",
    "O": "#d55e00",
    "red": "#d23b3f",
    "yellow": "#f4c430",
    "blue": "#2f6db5",
    "black": "#1d1f21",
    "white": "#fafaf5",
}


def board_function(game: "pgx.Env") -> Callable[[Any], Board]:
    """Returns the function `state -> Board` of a pgx game."""
    if game.id == "backgammon":
        from tz.games._backgammon_board import backgammon_board

        return backgammon_board
    draw, diagram = _DRAWINGS[family_of(game)], notation_of(game).diagram
    return lambda state: draw(diagram(state))


def _svg(width: Number, height: Number, parts: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}">{"".join(parts)}</svg>'
    )


def _rect(x: Number, y: Number, w: Number, h: Number, fill: str, more: str = "") -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{fill}" {more}/>'


def _circle(x: Number, y: Number, r: Number, fill: str, more: str = "") -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="{fill}" {more}/>'


def _line(x0: Number, y0: Number, x1: Number, y1: Number, color: str, width: Number) -> str:
    points = f'x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"'
    return f'<line {points} stroke="{color}" stroke-width="{width}" stroke-linecap="round"/>'


def _polygon(points: list[tuple[Number, Number]], fill: str, more: str = "") -> str:
    return f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" fill="{fill}" {more}/>'


class _Grid:
    """An unfinished drawing of a diagram, with room for coordinates on the left and below."""

    def __init__(self, diagram: Diagram):
        self.diagram = diagram
        self.num_rows, self.num_columns = len(diagram.cells), len(diagram.cells[0])
        self.left = 34.0 if diagram.rows else 12.0
        self.top = 12.0
        self.right = self.left + _CELL * self.num_columns
        self.bottom = self.top + _CELL * self.num_rows
        self.width, self.height = self.right + 12, self.bottom + (32 if diagram.columns else 12)
        self.parts: list[str] = []

    def cell(self, row: int, column: int) -> Rect:
        return self.left + _CELL * column, self.top + _CELL * row, _CELL, _CELL

    def middle(self, row: int, column: int) -> tuple[Number, Number]:
        return self.left + _CELL * (column + 0.5), self.top + _CELL * (row + 0.5)

    def coordinates(self) -> None:
        for column, name in enumerate(self.diagram.columns):
            self.parts.append(label(self.middle(0, column)[0], self.bottom + 22, name, 17, _GREY))
        for row, name in enumerate(self.diagram.rows):
            self.parts.append(label(self.left - 17, self.middle(row, 0)[1] + 6, name, 17, _GREY))

    def pieces(self, draw: Callable[[Number, Number, str], str]) -> None:
        """Adds `draw(x, y, cell)` in the middle of each cell that is not empty."""
        for row, cells in enumerate(self.diagram.cells):
            for column, text in enumerate(cells):
                if text:
                    self.parts.append(draw(*self.middle(row, column), text))

    def side_color(self, mark: str) -> str:
        return _COLORS[self.diagram.sides[self.diagram.marks.index(mark)]]

    def board(self, squares: Mapping[str, Rect] | None = None, spots: Mapping[str, Rect] | None = None) -> Board:
        if squares is None:
            places = [(r, c) for r in range(self.num_rows) for c in range(self.num_columns)]
            names = self.diagram.columns, self.diagram.rows
            squares = {_square(self.diagram, r, c): self.cell(r, c) for r, c in places} if all(names) else {}
        colors = tuple(_COLORS[side] for side in self.diagram.sides)
        svg, to_move = _svg(self.width, self.height, self.parts), self.diagram.to_move
        return Board(svg, self.width, self.height, squares, spots or {}, self.diagram.sides, colors, to_move)


def _square(diagram: Diagram, row: int, column: int) -> str:
    return diagram.columns[column] + diagram.rows[row]


def _lined(grid: _Grid, fill: str, line: str, width: Number) -> None:
    """Adds a board with lines between its cells."""
    grid.parts.append(_rect(grid.left, grid.top, grid.right - grid.left, grid.bottom - grid.top, fill, 'rx="3"'))
    for column in range(grid.num_columns + 1):
        x = grid.left + _CELL * column
        grid.parts.append(_line(x, grid.top, x, grid.bottom, line, width))
    for row in range(grid.num_rows + 1):
        y = grid.top + _CELL * row
        grid.parts.append(_line(grid.left, y, grid.right, y, line, width))


def _disc(grid: _Grid, radius: Number) -> Callable[[Number, Number, str], str]:
    edge = 'stroke="#00000066" stroke-width="1.2"'
    return lambda x, y, text: (
        _circle(x + 1, y + 2, radius, "#00000033") + _circle(x, y, radius, grid.side_color(text), edge)
    )


def _draw_tic_tac_toe(diagram: Diagram) -> Board:
    grid = _Grid(diagram)
    grid.parts.append(_rect(grid.left, grid.top, 3 * _CELL, 3 * _CELL, "#f7f8fa", 'rx="6"'))
    for n in (1, 2):
        x, y = grid.left + n * _CELL, grid.top + n * _CELL
        grid.parts += [_line(x, grid.top + 4, x, grid.bottom - 4, "#8a939b", 3)]
        grid.parts += [_line(grid.left + 4, y, grid.right - 4, y, "#8a939b", 3)]

    def piece(x: Number, y: Number, text: str) -> str:
        color, r = _COLORS[text], 17
        if text == "O":
            return _circle(x, y, r, "none", f'stroke="{color}" stroke-width="6"')
        return _line(x - r, y - r, x + r, y + r, color, 6) + _line(x - r, y + r, x + r, y - r, color, 6)

    grid.pieces(piece)
    grid.coordinates()
    return grid.board()


def _draw_connect_four(diagram: Diagram) -> Board:
    grid = _Grid(diagram)
    grid.parts.append(_rect(grid.left - 6, grid.top - 6, 7 * _CELL + 12, 6 * _CELL + 12, "#2b5fab", 'rx="12"'))
    spots = {}
    for column, name in enumerate(diagram.columns):
        for row in range(grid.num_rows):
            text = diagram.cells[row][column]
            fill = grid.side_color(text) if text else "#edf1f7"
            edge = 'stroke="#1f4680" stroke-width="2"'
            grid.parts.append(_circle(*grid.middle(row, column), 24, fill, edge))
            if not text:
                spots[name] = grid.cell(row, column)  # the rows run downwards, so the lowest empty cell remains
    grid.coordinates()
    squares = {
        name: (grid.left + _CELL * column, grid.top, _CELL, grid.bottom - grid.top)
        for column, name in enumerate(diagram.columns)
    }
    return grid.board(squares, spots)


def _draw_othello(diagram: Diagram) -> Board:
    grid = _Grid(diagram)
    _lined(grid, "#2f8457", "#1c5a39", 1.5)
    for row, column in ((2, 2), (2, 6), (6, 2), (6, 6)):
        grid.parts.append(_circle(grid.left + _CELL * column, grid.top + _CELL * row, 4, "#1c5a39"))
    grid.pieces(_disc(grid, 24))
    grid.coordinates()
    return grid.board()


def _draw_go(diagram: Diagram) -> Board:
    grid = _Grid(diagram)
    size = grid.num_rows
    grid.parts.append(_rect(grid.left, grid.top, size * _CELL, size * _CELL, "#e2b565", 'rx="4"'))
    for n in range(size):
        (x0, y0), (x1, y1) = grid.middle(n, 0), grid.middle(n, size - 1)
        grid.parts.append(_line(x0, y0, x1, y1, "#6d4c1d", 1.4))
        (x0, y0), (x1, y1) = grid.middle(0, n), grid.middle(size - 1, n)
        grid.parts.append(_line(x0, y0, x1, y1, "#6d4c1d", 1.4))
    stars = {9: (2, 4, 6), 13: (3, 6, 9), 19: (3, 9, 15)}.get(size, ())
    for row in stars:
        grid.parts += [_circle(*grid.middle(row, column), 5, "#6d4c1d") for column in stars]
    grid.pieces(_disc(grid, 27))
    grid.coordinates()
    return grid.board()


def _draw_hex(diagram: Diagram) -> Board:
    grid, size, side = _Grid(diagram), len(diagram.cells), 30.0
    step = side * math.sqrt(3)

    def middle(row: int, column: int) -> tuple[Number, Number]:
        return 60 + step * (column + row / 2), 60 + 1.5 * side * row

    def corners(x: Number, y: Number, r: Number) -> list[tuple[Number, Number]]:
        return [(x + r * math.sin(math.pi / 3 * n), y + r * math.cos(math.pi / 3 * n)) for n in range(6)]

    last = size - 1
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = middle(0, 0), middle(0, last), middle(last, last), middle(last, 0)
    red, blue = (_COLORS[side] for side in diagram.sides)
    edge = 'stroke-linejoin="round"'
    for (x0, y0), (x1, y1), color in (
        ((ax - 20, ay - 34), (bx + 20, by - 34), red),
        ((dx - 20, dy + 34), (cx + 20, cy + 34), red),
        ((ax - 36, ay - 10), (dx - 36, dy + 10), blue),
        ((bx + 36, by - 10), (cx + 36, cy + 10), blue),
    ):
        grid.parts.append(_line(x0, y0, x1, y1, color, 9))
    squares = {}
    for row in range(size):
        for column in range(size):
            x, y = middle(row, column)
            text = diagram.cells[row][column]
            fill = grid.side_color(text) if text else "#f3f0e8"
            grid.parts.append(_polygon(corners(x, y, side), fill, f'stroke="#8f8a7d" stroke-width="1.5" {edge}'))
            squares[_square(diagram, row, column)] = (x - 22, y - 22, 44.0, 44.0)
    for n in range(size):
        grid.parts.append(label(middle(0, n)[0] - 14, 18, diagram.columns[n], 15, _GREY))
        x, y = middle(n, 0)
        grid.parts.append(label(x - 50, y + 6, diagram.rows[n], 15, _GREY))
    grid.width, grid.height = cx + 60, cy + 60
    return grid.board(squares)


_GLYPHS = dict(zip("KQRBNP", "♚♛♜♝♞♟", strict=True))


def _draw_chess(diagram: Diagram) -> Board:
    grid = _Grid(diagram)
    for row in range(grid.num_rows):
        for column in range(grid.num_columns):
            is_dark = (row + column + grid.num_rows) % 2 == 1
            grid.parts.append(_rect(*grid.cell(row, column), "#b78a66" if is_dark else "#f0dcbc"))

    def piece(x: Number, y: Number, text: str) -> str:
        fill, edge = ("#fffdf7", "#2a2a2a") if text.isupper() else ("#23262a", "#0b0c0d")
        style = 'font-family="DejaVu Sans, Segoe UI Symbol, Noto Sans Symbols2, sans-serif" text-anchor="middle"'
        return (
            f'<text x="{x:.1f}" y="{y + 17:.1f}" font-size="48" {style} fill="{fill}" stroke="{edge}" '
            f'stroke-width="1.3">{_GLYPHS[text.upper()]}\ufe0e</text>'
        )

    grid.pieces(piece)
    grid.coordinates()
    return grid.board()


def _wooden_piece(x: Number, y: Number, text: str) -> str:
    """Draws a piece of shogi, which points away from its owner. Promoted pieces are red."""
    turned = text.islower()
    points = [(0, -26), (17, -18), (22, 24), (-22, 24), (-17, -18)]
    shape = _polygon([(x + dx, y + (-dy if turned else dy)) for dx, dy in points], "#fbeed0", 'stroke="#6d4c1d"')
    color = "#b3261e" if "+" in text or text in ("H", "h") else _INK
    letters = label(x, y + 10, text.upper(), 24 if len(text) == 1 else 20, color, weight="bold")
    return shape + (f'<g transform="rotate(180 {x:.1f} {y:.1f})">{letters}</g>' if turned else letters)


def _draw_shogi(diagram: Diagram) -> Board:
    grid = _Grid(diagram)
    _lined(grid, "#ecc98a", "#7a5a26", 1.5)
    grid.pieces(_wooden_piece)
    grid.coordinates()
    places = [(r, c) for r in range(grid.num_rows) for c in range(grid.num_columns)]
    squares = {_square(diagram, r, c): grid.cell(r, c) for r, c in places}
    for side, note in enumerate(diagram.notes):
        held = note.split(": ")[1].split() if not note.endswith("nothing") else []
        bottom = side == 0
        y = grid.bottom - 30 if bottom else grid.top + 30
        for number, text in enumerate(held):
            x = grid.right + 36 + 56 * (number // 4)
            at = y + (-62 if bottom else 62) * (number % 4)
            letter = text[0]
            grid.parts.append(_wooden_piece(x, at, letter if bottom else letter.lower()))
            if len(text) > 1:
                grid.parts.append(label(x + 20, at + 28, text[1:], 15, _INK, weight="bold"))
            if side == diagram.to_move:
                squares[f"{letter}*"] = (x - 28, at - 30, 56.0, 60.0)
    grid.width = grid.right + 132
    return grid.board(squares)


_TILES = ("#eee4da", "#ede0c8", "#f2b179", "#f59563", "#f67c5f", "#f65e3b", "#edcf72", "#edcc61", "#edc850", "#edc53f")


def _draw_2048(diagram: Diagram) -> Board:
    grid = _Grid(diagram)
    grid.parts.append(_rect(6, 6, 4 * _CELL + 12, 4 * _CELL + 12, "#bbada0", 'rx="8"'))
    for row in range(4):
        for column in range(4):
            x, y, w, h = grid.cell(row, column)
            text = diagram.cells[row][column]
            power = int(text).bit_length() - 1 if text else 0
            fill = _TILES[min(power, len(_TILES)) - 1] if power else "#cdc1b4"
            grid.parts.append(_rect(x + 3, y + 3, w - 6, h - 6, fill, 'rx="5"'))
            if power:
                ink, size = ("#776e65" if power < 3 else "#ffffff"), 26 if len(text) < 3 else 66 / len(text)
                grid.parts.append(label(x + w / 2, y + h / 2 + 0.35 * size, text, size, ink, weight="bold"))
    return grid.board({})


_CHANNEL_COLORS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#8c564b", "#999999", "#b5b000")


def _draw_minatar(diagram: Diagram) -> Board:
    grid = _Grid(diagram)
    legend = diagram.notes[0].split(", ")
    colors = {text[0]: _CHANNEL_COLORS[n % len(_CHANNEL_COLORS)] for n, text in enumerate(legend)}
    grid.parts.append(_rect(grid.left, grid.top, 10 * _CELL, 10 * _CELL, "#20252b", 'rx="4"'))
    grid.pieces(lambda x, y, text: _rect(x - 27, y - 27, 54, 54, colors[text], 'rx="6"'))
    for number, text in enumerate(legend):
        y = grid.top + 30 + 40 * number
        grid.parts.append(_rect(grid.right + 18, y - 16, 22, 22, colors[text[0]], 'rx="3"'))
        name = label(0, 0, text[2:], 20, _INK).replace('text-anchor="middle"', "")
        grid.parts.append(f'<g transform="translate({grid.right + 50:.1f} {y + 2:.1f})">{name}</g>')
    grid.width = grid.right + 230
    return grid.board({})


_DRAWINGS: dict[str, Callable[[Diagram], Board]] = {
    "2048": _draw_2048,
    "animal_shogi": _draw_shogi,
    "chess": _draw_chess,
    "connect_four": _draw_connect_four,
    "gardner_chess": _draw_chess,
    "go": _draw_go,
    "hex": _draw_hex,
    "minatar": _draw_minatar,
    "othello": _draw_othello,
    "shogi": _draw_shogi,
    "tic_tac_toe": _draw_tic_tac_toe,
}
