"""The board of backgammon, drawn from Black's side, with the point numbers of the player to move."""

from typing import Any

import numpy as np

from tz.games.boards import Board, Number, Rect, label

_W, _H, _TOP, _LEFT, _BAR = 46.0, 440.0, 34.0, 14.0, 46.0
_BLACK, _WHITE = "#1d1f21", "#fafaf5"


def _column(black_point: int) -> tuple[Number, bool]:
    """Returns the left edge of a point, given its number for Black, and whether it is in the upper half."""
    upper = black_point > 12
    place = black_point - 13 if upper else 12 - black_point
    return _LEFT + _W * place + (_BAR if place > 5 else 0), upper


def _checkers(x: Number, upper: bool, count: int, fill: str) -> list[str]:
    edge, parts, radius = "#8a8a84" if fill == _BLACK else "#3a3a3a", [], 20.0
    for number in range(min(count, 5)):
        y = _TOP + radius + 1 + 2 * radius * number if upper else _TOP + _H - radius - 1 - 2 * radius * number
        parts.append(f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{fill}" stroke="{edge}" stroke-width="1.5"/>')
    if count > 5:
        y = _TOP + 5 * 2 * radius - 13 if upper else _TOP + _H - 5 * 2 * radius + 27
        parts.append(label(x, y, str(count), 17, _WHITE if fill == _BLACK else _BLACK, weight="bold"))
    return parts


def _dice(pips: list[int], used: int, middle: Number) -> list[str]:
    spots = {1: [4], 2: [0, 8], 3: [0, 4, 8], 4: [0, 2, 6, 8], 5: [0, 2, 4, 6, 8], 6: [0, 2, 3, 5, 6, 8]}
    parts, y = [], _TOP + _H / 2 - 18
    for number, pip in enumerate(pips):
        x, opacity = middle - 22 * len(pips) + 44 * number + 4, 0.35 if number < used else 1
        shape = [f'<rect x="{x}" y="{y}" width="36" height="36" rx="7" fill="#ffffff" stroke="#333333"/>']
        for spot in spots[pip]:
            shape.append(f'<circle cx="{x + 8 + 10 * (spot % 3)}" cy="{y + 8 + 10 * (spot // 3)}" r="3.6"/>')
        parts.append(f'<g opacity="{opacity}">{"".join(shape)}</g>')
    return parts


def backgammon_board(state: Any) -> Board:
    """Draws a state of backgammon in pgx."""
    # pgx stores the board for the player to move, whose checkers are positive; the last four entries are both bars and
    # both trays of checkers that were borne off. For White, all of it is turned around.
    mine, turn = np.asarray(state._board), int(state._turn)
    black = mine if turn == 0 else -mine[[*range(23, -1, -1), 25, 24, 27, 26]]
    right = _LEFT + 12 * _W + _BAR
    width, height = right + 74, _H + 2 * _TOP
    parts = [
        f'<rect x="{_LEFT - 8}" y="{_TOP - 8}" width="{right - _LEFT + 76}" height="{_H + 16}" rx="8" fill="#6b4226"/>',
        f'<rect x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" height="{_H}" fill="#ecdcb9"/>',
        f'<rect x="{_LEFT + 6 * _W}" y="{_TOP}" width="{_BAR}" height="{_H}" fill="#8a5a36"/>',
        f'<rect x="{right + 8}" y="{_TOP}" width="50" height="{_H}" rx="4" fill="#8a5a36"/>',
    ]
    squares: dict[str, Rect] = {}
    spots: dict[str, Rect] = {}
    for point in range(1, 25):
        x, upper = _column(point)
        base, tip = (_TOP, _TOP + 190) if upper else (_TOP + _H, _TOP + _H - 190)
        fill = "#b5523b" if point % 2 else "#d9b98a"
        parts.append(f'<polygon points="{x},{base} {x + _W},{base} {x + _W / 2},{tip}" fill="{fill}"/>')
        name = str(point if turn == 0 else 25 - point)
        parts.append(label(x + _W / 2, _TOP - 14 if upper else _TOP + _H + 26, name, 15, "#626b73"))
        count = int(black[24 - point])
        if count:
            parts += _checkers(x + _W / 2, upper, abs(count), _BLACK if count > 0 else _WHITE)
        squares[name] = x, _TOP if upper else _TOP + _H / 2, _W, _H / 2
        spots[name] = x, _TOP if upper else _TOP + _H - 46, _W, 46.0
    bar, tray = _LEFT + 6 * _W, right + 33
    # Black enters in the upper right quarter and bears off from the lower right one; White the other way round.
    for upper, count, off, fill in (
        (True, int(black[24]), int(-black[27]), _BLACK),
        (False, int(-black[25]), int(black[26]), _WHITE),
    ):
        parts += _checkers(bar + _BAR / 2, upper, count, fill)
        if off:
            parts += _checkers(tray, upper, off, _WHITE if upper else _BLACK)
    squares["bar"] = bar, _TOP if turn == 0 else _TOP + _H / 2, _BAR, _H / 2
    squares["off"] = right + 8, _TOP + _H / 2 if turn == 0 else _TOP, 50.0, _H / 2
    dice = [int(pip) + 1 for pip in np.asarray(state._dice)]
    left = [int(pip) + 1 for pip in np.asarray(state._playable_dice) if pip >= 0]
    rolled = dice * 2 if dice[0] == dice[1] else dice
    used = list(rolled)
    for pip in left:
        used.remove(pip)
    parts += _dice([*used, *left], len(used), _LEFT + 9 * _W + _BAR)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}">{"".join(parts)}</svg>'
    )
    return Board(svg, width, height, squares, spots, ("black", "white"), (_BLACK, _WHITE), turn)
