"""Scores a position in the notation of GTP: `B+3.5`, `W+12`, `0`."""

import numpy as np
from jaxtyping import PyTree

from tz.matches._playing import LEVEL
from tz.matches.engines import colours, go_rules
from tz.play.game import Game


def final_score(game: Game) -> str:
    """Returns the score: by area in Go, by discs in Othello, and by the rewards of the players in other games.

    In Go, the game need not be over, and all stones count as alive. If the rules decided otherwise than by area, as
    they do where a position is repeated, the score is `B+F` or `W+F`.

    **Raises:** `ValueError` if a game other than Go is not over.
    """
    state, rules = game.turns[-1].host, go_rules(game.env)
    if rules is not None:
        size, komi = rules
        lead = _area(np.sign(state._x.board).reshape(size, size)) - komi
        if game.is_over and np.sign(lead) != np.sign(game.returns[0]):
            return "B+F" if game.returns[0] > 0 else "W+F"
        return _text("b", "w", lead)
    if not game.is_over:
        raise ValueError("the game is not over, so it has no score yet")
    first, second = colours(game.env)
    lead = _discs(state) if game.env.name == "othello" else game.returns[0]
    return _text(first, second, lead)


def _text(first: str, second: str, lead: float) -> str:
    return "0" if abs(lead) < LEVEL else f"{(first if lead > 0 else second).upper()}+{abs(lead):g}"


def _discs(state: PyTree) -> float:
    """Returns the first player's lead in discs."""
    # The board has 1 for discs of the player to move and -1 for the other's.
    return float(np.sum(state._x.board)) * (1 if int(state._x.turn) == 0 else -1)


def _area(board: np.ndarray) -> float:
    """Returns black's lead in points. A colour owns its stones and the empty regions that touch no other colour.

    **Arguments:** `board`, `[size, size]`: 1 for black, -1 for white, 0 for an empty point.
    """
    score, seen = float(board.sum()), board != 0
    for start in np.argwhere(board == 0).tolist():
        if seen[tuple(start)]:
            continue
        region, borders, frontier = 0, set(), [tuple(start)]
        seen[tuple(start)] = True
        while frontier:
            row, column = frontier.pop()
            region += 1
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if not (0 <= near[0] < len(board) and 0 <= near[1] < len(board)):
                    continue
                if board[near]:
                    borders.add(int(board[near]))
                elif not seen[near]:
                    seen[near] = True
                    frontier.append(near)
        score += region * sum(borders)  # 0 if it touches both colours
    return score
