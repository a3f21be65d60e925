"""Tic-tac-toe solved by minimax: an oracle. A board is nine cells: 1 is the player to move, -1 the other, 0 empty."""

import functools

import numpy as np

Board = tuple[int, ...]
LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


def after(board: Board, cell: int) -> Board:
    return tuple(-x for x in (*board[:cell], 1, *board[cell + 1 :]))


@functools.cache
def minimax(board: Board) -> tuple[int, dict[int, int]]:
    """Returns the value of a board for the player to move (+1), and the value of each of its moves."""
    if any(all(board[i] == -1 for i in line) for line in LINES):
        return -1, {}
    moves = {cell: -minimax(after(board, cell))[0] for cell in range(9) if board[cell] == 0}
    return max(moves.values(), default=0), moves


@functools.cache
def reachable() -> dict[Board, list[int]]:
    """Returns every reachable board in which the game is not over, with moves that lead there."""
    found, frontier = {(0,) * 9: []}, [(0,) * 9]
    while frontier:
        board = frontier.pop()
        for cell in minimax(board)[1]:
            next_board = after(board, cell)
            if next_board not in found and minimax(next_board)[1]:
                found[next_board] = [*found[board], cell]
                frontier.append(next_board)
    return found


@functools.cache
def representatives() -> dict[Board, list[int]]:
    """Returns one reachable board of each class of symmetric boards, with moves that lead there."""
    cells = np.arange(9).reshape(3, 3)
    turned = [np.rot90(side, turns).ravel() for side in (cells, cells[:, ::-1]) for turns in range(4)]
    least = {min(tuple(np.array(board)[order]) for order in turned): board for board in reachable()}
    return {board: reachable()[board] for board in least.values()}


def padded(moves: list[list[int]]) -> np.ndarray:
    """Returns lists of moves as an array for `tz.play_moves`."""
    return np.array([row + (9 - len(row)) * [-1] for row in moves], np.int32)


def is_mistake(board: Board, move: int) -> bool:
    value, moves = minimax(board)
    return moves[int(move)] < value
