"""Runs GNU Backgammon as a process, and translates positions and moves between gnubg and pgx.

A position of gnubg is two lists of 25 counts of checkers: first the opponent's, then those of the player on roll. Each
player counts the points from the end of its own way, so entry `i` is the point `i + 1`; the last entry is the bar. A
move is a row of pairs of points `(from, to)`, where 25 is the bar and 0 is off the board.

A board of pgx has the perspective of the player to move, who goes from place 0 to place 23; the opponent's counts are
negative. Places 24 and 25 are the bars of the player and of the opponent, and places 26 and 27 hold the checkers that
they have borne off. An action moves one checker by one die: `6 * source + die - 1`, where source 0 is no move at all,
source 1 is the bar, and `place + 2` is a place.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Pairs = list[tuple[int, int]]


def to_gnubg(board: np.ndarray) -> list[list[int]]:
    """Converts a board of pgx into a position of gnubg."""
    places = np.asarray(board[:24])
    own = [*np.maximum(places[::-1], 0), board[24]]
    other = [*np.maximum(-places, 0), -board[25]]
    return [[int(x) for x in other], [int(x) for x in own]]


def pairs_of(answer: Sequence[int]) -> Pairs:
    """Splits an answer of gnubg, a flat row of numbers, into pairs of points in an order that pgx can play.

    Checkers with the longest way come first, so checkers on the bar do too; checkers that are borne off come last.
    """
    pairs = [(start, end) for start, end in zip(answer[::2], answer[1::2], strict=True) if start > 0]
    return sorted(pairs, key=lambda pair: (pair[1] == 0, -pair[0]))


def after_moves(position: list[list[int]], pairs: Pairs) -> list[list[int]]:
    """Returns gnubg's position after all moves of a roll, still from the perspective of the player who moved."""
    other, own = (list(side) for side in position)
    for start, end in pairs:
        own[start - 1] -= 1
        if end > 0:
            own[end - 1] += 1
            hit = other[24 - end]
            other[24 - end], other[24] = 0, other[24] + hit
    return [other, own]


def next_action(pairs: Pairs, mask: np.ndarray) -> int:
    """Returns the action of pgx for the first of the remaining pairs of a roll, or the empty move if there is none."""
    start, end = pairs[0] if pairs else (26, 26)  # point 26 stands for source 0
    source = 1 if start == 25 else 26 - start
    # A die may be larger than needed to bear a checker off. For an empty move, pgx takes any die.
    dice = range(1, 7) if not pairs else range(start, 7) if end == 0 else [start - end]
    for die in dice:
        if mask[6 * source + die - 1]:
            return 6 * source + die - 1
    raise ValueError(f"gnubg: found the moves {pairs}, expected the first to be legal in pgx; compare the rules.")


def version(program: str) -> str:
    """Returns the first line that the program prints about its version."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return said.stdout.splitlines()[0]


class Gnubg:
    """The program gnubg as a process that answers requests for moves."""

    def __init__(self, program: str = "/usr/games/gnubg"):
        if not Path(program).exists():
            raise ValueError(
                f"gnubg: found no {program}, expected GNU Backgammon; install it: sudo apt-get install gnubg."
            )
        server = Path(__file__).with_name("gnubg_server.py")
        command = [program, "--tty", "--quiet", "--no-rc", "--python", str(server)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        """Ends the program."""
        self._process.kill()
        self._process.communicate()

    def best_moves(self, boards: np.ndarray, dice: np.ndarray, plies: int, noise: float) -> list[Pairs]:
        """Returns gnubg's moves for some rolls, given as the boards and dice (from 0 to 5) of pgx."""
        rolls = [(to_gnubg(board), [int(die) + 1 for die in roll]) for board, roll in zip(boards, dice, strict=True)]
        question = {"plies": plies, "noise": noise, "positions": rolls}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        said = []
        for line in self._process.stdout:
            _, mark, answers = line.partition("best moves: ")
            if mark:
                return [pairs_of(answer or ()) for answer in json.loads(answers)]
            said.append(line)
        raise ValueError(f"gnubg: found that the program ended, expected an answer; it printed: {''.join(said[-20:])}")
