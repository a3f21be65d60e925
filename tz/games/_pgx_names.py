"""Names for the moves of pgx games, and positions as diagrams in plain Python.

Each pgx game numbers its actions in its own way, and some turn the board towards the player to move. The tests play
games and compare the names with the boards after the moves.
"""

import functools
import string
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

if TYPE_CHECKING:
    import pgx

_GO_COLUMNS = string.ascii_lowercase.replace("i", "")
_SHOGI_PIECES = ("P", "L", "N", "S", "B", "R", "G", "K", "+P", "+L", "+N", "+S", "+B", "+R")
_ANIMALS = ("C", "E", "G", "L", "H")  # chick, elephant, giraffe, lion, hen


class Diagram(NamedTuple):
    """A position as people draw it.

    **Fields:** `cells`, the rows of the board from the top, where each cell is a short text, or "" if it is empty;
    `columns` and `rows`, their names, where `rows` is empty if a move names only a column; `notes`, lines below the
    board; `sides`, their names, empty in a game for one player; `marks`, the text that each side has in the cells;
    `to_move`, the index in `sides` of the side to move.
    """

    cells: list[list[str]]
    columns: list[str]
    rows: list[str]
    notes: tuple[str, ...] = ()
    sides: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    to_move: int = 0


class Notation(NamedTuple):
    """The notation of a pgx game: `label`, `(state, action) -> str`, and `diagram`, `state -> Diagram`."""

    label: Callable[[Any, int], str]
    diagram: Callable[[Any], Diagram]


def notation_of(game: "pgx.Env") -> Notation:
    """Returns the notation of a pgx game."""
    return _FAMILIES[family_of(game)](game)


def family_of(game: "pgx.Env") -> str:
    """Returns the family of a game, such as `"go"` for `"go_9x9"` and `"minatar"` for `"minatar-breakout"`."""
    return "go" if game.id.startswith("go_") else game.id.split("-")[0]


def diagram_text(diagram: Diagram) -> str:
    """Returns a diagram as lines of text."""
    width = max(len(text) for text in [*diagram.columns, *(cell for row in diagram.cells for cell in row), "."])
    margin = max([len(name) for name in diagram.rows], default=0)
    header = (" " * (margin + 1) + " ".join(name.rjust(width) for name in diagram.columns)).rstrip()
    lines = [header] if diagram.columns else []
    for index, row in enumerate(diagram.cells):
        name = diagram.rows[index] if diagram.rows else ""
        lines.append(name.rjust(margin) + " " + " ".join((cell or ".").rjust(width) for cell in row))
    lines += [header] if diagram.columns and diagram.rows else []
    if diagram.sides:
        sides = list(zip(diagram.marks, diagram.sides, strict=True))
        lines.append(", ".join(mark if mark == side else f"{mark} {side}" for mark, side in sides))
        lines.append(f"to move: {diagram.sides[diagram.to_move]}")
    return "\n".join([*lines, *diagram.notes])


def _rows(values: Any, num_columns: int, symbols: dict[int, str]) -> list[list[str]]:
    cells = [symbols[int(value)] for value in np.asarray(values).ravel()]
    return [cells[start : start + num_columns] for start in range(0, len(cells), num_columns)]


def _stones(names: list[str], columns: list[str], rows: list[str], board: Callable, sides: tuple[str, str], marks="XO"):
    """Makes the notation of a game whose actions have fixed names.

    `board(state)` returns an array, with 1 for stones of the first side and -1 for stones of the second, and the side
    to move.
    """

    def diagram(state: Any) -> Diagram:
        values, to_move = board(state)
        cells = _rows(values, len(columns), {0: "", 1: marks[0], -1: marks[1]})
        return Diagram(cells, columns, rows, (), sides, tuple(marks), int(to_move))

    return Notation(lambda state, action: names[action], diagram)


def _tic_tac_toe(game: "pgx.Env") -> Notation:
    del game
    columns, rows = list("abc"), list("321")
    names = [column + row for row in rows for column in columns]
    return _stones(names, columns, rows, _by_color, ("X", "O"))


def _by_color(state: Any) -> tuple[np.ndarray, int]:
    """Reads a board that has -1 for an empty cell, and 0 and 1 for the sides."""
    board = np.asarray(state._x.board)
    return (board == 0).astype(int) - (board == 1), int(state._x.color)


def _connect_four(game: "pgx.Env") -> Notation:
    del game
    columns = [str(column) for column in range(1, 8)]
    return _stones(columns, columns, [], _by_color, ("red", "yellow"))


def _othello(game: "pgx.Env") -> Notation:
    del game
    columns, rows = list("abcdefgh"), list("12345678")
    names = [column + row for row in rows for column in columns] + ["pass"]

    def look(state: Any) -> tuple[np.ndarray, int]:
        turn = int(state._x.turn)
        return np.sign(np.asarray(state._x.board)) * (1 - 2 * turn), turn

    return _stones(names, columns, rows, look, ("black", "white"))


def _go(game: Any) -> Notation:
    size = game._game.size if hasattr(game, "_game") else int(game.id.split("x")[-1])
    columns, rows = list(_GO_COLUMNS[:size]), [str(row) for row in range(size, 0, -1)]
    names = [column + row for row in rows for column in columns] + ["pass"]

    def look(state: Any) -> tuple[np.ndarray, int]:
        return np.sign(np.asarray(state._x.board)), int(state._x.step_count) % 2

    stones = _stones(names, columns, rows, look, ("black", "white"))

    def diagram(state: Any) -> Diagram:
        black, white = (int(count) for count in np.asarray(state._x.num_captured))
        # Some versions of pgx count the stones that a side has lost instead, so only the sum is shown.
        return stones.diagram(state)._replace(notes=(f"captured: {black + white}",) if black + white else ())

    return Notation(stones.label, diagram)


def _hex(game: Any) -> Notation:
    size = game.size
    columns, rows = list(string.ascii_lowercase[:size]), [str(row) for row in range(1, size + 1)]
    names = [column + row for row in rows for column in columns] + ["swap"]

    def look(state: Any) -> tuple[np.ndarray, int]:
        turn = int(state._x.step_count) % 2
        return np.sign(np.asarray(state._x.board)) * (1 - 2 * turn), turn

    stones = _stones(names, columns, rows, look, ("red", "blue"))
    goals = ("red connects top and bottom, blue left and right",)
    return Notation(stones.label, lambda state: stones.diagram(state)._replace(notes=goals))


def _chess_notation(size: int, tables: Callable[[], np.ndarray], position: Callable) -> Notation:
    """Makes the notation of chess on a board of `size` by `size`.

    `tables()` returns the target square for each start square and plane, negative off the board. `position(state)`
    returns the board from the perspective of the player to move, column by column from the bottom, and whether Black is
    to move.
    """
    files, last = string.ascii_lowercase[:size], size - 2

    def square(index: int, turn: int) -> str:
        row = index % size
        return files[index // size] + str((size - 1 - row if turn else row) + 1)

    def label(state: Any, action: int) -> str:
        targets = tables()
        board, turn = position(state)
        start, plane = divmod(action, targets.shape[1])
        target = int(targets[start, plane])
        if target < 0:
            return f"none{action}"  # leads off the board
        name = square(start, turn) + square(target, turn)
        if plane < 9:  # pgx has nine planes for underpromotions: three pieces by three directions
            return name + "rbn"[plane // 3]
        # All other moves of a pawn from the row before the last promote it to a queen.
        return name + ("q" if board[start] == 1 and start % size == last else "")

    def diagram(state: Any) -> Diagram:
        board, turn = position(state)
        by_rows = board.reshape(size, size).T
        if turn:
            by_rows = -by_rows[::-1]
        letters = {0: "", **dict(enumerate("PNBRQK", 1))}
        letters |= {-piece: letter.lower() for piece, letter in letters.items() if piece}
        rows = [str(row) for row in range(size, 0, -1)]
        return Diagram(_rows(by_rows[::-1], size, letters), list(files), rows, (), ("white", "black"), ("P", "p"), turn)

    return Notation(label, diagram)


def _chess(game: "pgx.Env") -> Notation:
    del game

    @functools.cache
    def targets() -> np.ndarray:
        from pgx._src.games.chess import FROM_PLANE

        return np.asarray(FROM_PLANE)

    return _chess_notation(8, targets, lambda state: (np.asarray(state._x.board), int(state._x.color)))


def _gardner_chess(game: "pgx.Env") -> Notation:
    del game

    @functools.cache
    def targets() -> np.ndarray:
        from pgx._src.gardner_chess_utils import TO_MAP

        return np.asarray(TO_MAP)

    return _chess_notation(5, targets, lambda state: (np.asarray(state._board), int(state._turn)))


def _shogi_square(index: int, turn: int, num_files: int, num_ranks: int) -> str:
    index = num_files * num_ranks - 1 - index if turn else index
    return f"{index // num_ranks + 1}{string.ascii_lowercase[index % num_ranks]}"


def _shogi_diagram(board: Any, hands: Any, turn: int, num_ranks: int, pieces: tuple[str, ...]) -> Diagram:
    """Makes a diagram of a board from the perspective of the player to move.

    The board is stored file by file, from the right. The numbers of the opponent's pieces follow those of the player to
    move.
    """
    board, hands, kinds = np.asarray(board), np.asarray(hands), len(pieces)
    letters = {-1: "", **dict(enumerate(pieces))}
    letters |= {piece + kinds: letter.lower() for piece, letter in enumerate(pieces)}
    if turn:
        board, hands = np.where(board < 0, board, (board + kinds) % (2 * kinds))[::-1], hands[::-1]
    by_ranks = board.reshape(-1, num_ranks)[::-1].T
    files = [str(number) for number in range(len(board) // num_ranks, 0, -1)]
    notes = []
    for side, hand in zip(("black", "white"), hands, strict=True):
        held = [f"{pieces[kind]}{int(count) if count > 1 else ''}" for kind, count in enumerate(hand) if count > 0]
        notes.append(f"in hand, {side}: {' '.join(held) or 'nothing'}")
    cells = _rows(by_ranks, len(files), letters)
    ranks = list(string.ascii_lowercase[:num_ranks])
    marks = (pieces[0], pieces[0].lower())
    return Diagram(cells, files, ranks, tuple(notes), ("black", "white"), marks, turn)


_SHOGI_STEPS = ((0, 1), (-1, 1), (1, 1), (-1, 0), (1, 0), (0, -1), (-1, -1), (1, -1), (-1, 2), (1, 2))


def _shogi(game: "pgx.Env") -> Notation:
    del game

    def origin(board: np.ndarray, direction: int, target: int) -> int | None:
        """Returns the nearest square with a piece of the player to move in a direction from the target, as in pgx."""
        (dx, dy), (x, y) = _SHOGI_STEPS[direction], divmod(target, 9)
        for _ in range(8 if direction < 8 else 1):
            x, y = x + dx, y + dy
            if not (0 <= x < 9 and 0 <= y < 9):
                return None
            if 0 <= board[9 * x + y] < 14:
                return 9 * x + y
        return None

    def label(state: Any, action: int) -> str:
        turn, (direction, target) = int(state._x.color), divmod(action, 81)
        to = _shogi_square(target, turn, 9, 9)
        if direction >= 20:
            return f"{_SHOGI_PIECES[direction - 20]}*{to}"
        start = origin(np.asarray(state._x.board), direction % 10, target)
        if start is None:
            return f"none{action}"  # no piece stands in that direction
        return _shogi_square(start, turn, 9, 9) + to + ("+" if direction >= 10 else "")

    def diagram(state: Any) -> Diagram:
        return _shogi_diagram(state._x.board, state._x.hand, int(state._x.color), 9, _SHOGI_PIECES)

    return Notation(label, diagram)


_ANIMAL_STEPS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def _animal_shogi(game: "pgx.Env") -> Notation:
    del game

    def label(state: Any, action: int) -> str:
        turn, (kind, square) = int(state._turn), divmod(action, 12)
        name = _shogi_square(square, turn, 3, 4)
        if kind >= 8:
            return f"{_ANIMALS[kind - 8]}*{name}"
        x, y = square // 4 + _ANIMAL_STEPS[kind][0], square % 4 + _ANIMAL_STEPS[kind][1]
        if not (0 <= x < 3 and 0 <= y < 4):
            return f"none{action}"  # leads off the board
        return name + _shogi_square(4 * x + y, turn, 3, 4)

    return Notation(label, lambda state: _shogi_diagram(state._board, state._hand, int(state._turn), 4, _ANIMALS))


def _backgammon(game: "pgx.Env") -> Notation:
    del game

    def label(state: Any, action: int) -> str:
        del state
        source, die = action // 6, action % 6 + 1
        if source == 0:
            return "pass" if die == 1 else f"pass({die})"  # pgx has six of them, all with the same effect
        if source == 1:
            return f"bar/{25 - die}"
        point = 26 - source
        if point > die:
            return f"{point}/{point - die}"
        return f"{point}/off" if point == die else f"{point}/off({die})"

    def diagram(state: Any) -> Diagram:
        """Draws the board for the player to move, whose checkers run from point 24 to 1."""
        board, turn, marks = np.asarray(state._board), int(state._turn), ("X", "O")
        mine, theirs = marks[turn], marks[1 - turn]
        stacks = [f"{abs(int(n))}{mine if n > 0 else theirs}" if n else "" for n in board[:24]]
        stacks = stacks[::-1]  # of points 1 to 24
        points = [str(point) for point in range(1, 25)]
        dice = " ".join(str(int(pips) + 1) for pips in np.asarray(state._playable_dice) if pips >= 0)
        cells = [stacks[12:], points[11::-1], stacks[11::-1]]
        bar, off = (board[24], -board[25]), (board[26], -board[27])
        notes = (
            f"dice to play: {dice or 'none'}",
            f"bar: {int(bar[0])}{mine} {int(bar[1])}{theirs}; off: {int(off[0])}{mine} {int(off[1])}{theirs}",
        )
        return Diagram(cells, points[12:], [], notes, ("black", "white"), marks, turn)

    return Notation(label, diagram)


def _2048(game: "pgx.Env") -> Notation:
    del game
    names = ("left", "up", "right", "down")

    def diagram(state: Any) -> Diagram:
        return Diagram(_rows(state._board, 4, {n: str(2**n) if n else "" for n in range(32)}), [], [])

    return Notation(lambda state, action: names[action], diagram)


_MINATAR_ACTIONS = ("stay", "left", "up", "right", "down", "fire")
_MINATAR_CHANNELS = {
    "minatar-asterix": ("P player", "E enemy", "t trail", "G gold"),
    "minatar-breakout": ("P paddle", "B ball", "t trail", "# brick"),
    "minatar-freeway": ("P chicken", "C car", "1 speed", "2 speed", "3 speed", "4 speed", "5 speed"),
    "minatar-seaquest": (
        *("P submarine", "p its back", "b bullet", "t trail", "e enemy's bullet", "F fish", "S enemy", "o oxygen"),
        *("d divers on board", "D diver"),
    ),
    "minatar-space_invaders": ("P cannon", "A alien", "l to the left", "r to the right", "b bullet", "e its bullet"),
}


def _minatar(game: Any) -> Notation:
    actions = [int(a) for a in np.asarray(game.minimal_action_set)] if game.use_minimal_action_set else list(range(6))
    channels, observe = _MINATAR_CHANNELS[game.id], jax.jit(game.observe)  # compiled, it takes NumPy's arrays as well

    def diagram(state: Any) -> Diagram:
        seen = np.asarray(observe(state))
        cells = [["" for _ in range(seen.shape[1])] for _ in range(seen.shape[0])]
        for channel in reversed(range(seen.shape[2])):  # the first channel is drawn last, on top of the others
            for row, column in np.argwhere(seen[:, :, channel]):
                cells[row][column] = channels[channel][0]
        return Diagram(cells, [], [], (", ".join(channels),))

    return Notation(lambda state, action: _MINATAR_ACTIONS[actions[action]], diagram)


_FAMILIES: dict[str, Callable[[Any], Notation]] = {
    "2048": _2048,
    "animal_shogi": _animal_shogi,
    "backgammon": _backgammon,
    "chess": _chess,
    "connect_four": _connect_four,
    "gardner_chess": _gardner_chess,
    "go": _go,
    "hex": _hex,
    "minatar": _minatar,
    "othello": _othello,
    "shogi": _shogi,
    "tic_tac_toe": _tic_tac_toe,
}
