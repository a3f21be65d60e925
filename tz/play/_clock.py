"""The clocks of two players under the rules of GTP.

After the main time, a player has to make a number of moves in each period (Canadian byo-yomi).
"""

import dataclasses

_MOVES_AHEAD = 20  # a move may take a twentieth of the main time left, as if 20 more moves were always to come
_LATENCY = 0.05  # seconds kept back for the delay between the clock and the search


@dataclasses.dataclass
class _Side:
    seconds: float
    moves: int  # the number still to make within `seconds`; 0 during main time


class Clock:
    """Tracks the time of both sides. There is no limit until `set` or `tell` is called."""

    def __init__(self):
        self._period: tuple[float, int] | None = None
        self._begin: tuple[float, int] | None = None
        self._sides: list[_Side] | None = None

    def set(self, main: float, period: float, moves: int) -> None:
        """Applies the command `time_settings`.

        **Arguments:** `main` and `period`, in seconds; `moves`, the number of moves to make in each period. A period
        with 0 moves means that there is no limit.
        """
        self._period = (period, moves) if moves else None
        if period > 0 and moves == 0:
            self._begin = None
        else:
            self._begin = (period, moves) if main <= 0 and moves else (main, 0)
        self.restart()

    def restart(self) -> None:
        """Resets both clocks to their settings, which is no limit where none was set."""
        self._sides = None if self._begin is None else [_Side(*self._begin), _Side(*self._begin)]

    def tell(self, side: int, seconds: float, moves: int) -> None:
        """Sets the time of a side, as `time_left` of the interface reports it; `moves` is 0 during main time."""
        if self._sides is None:
            self._sides = [_Side(seconds, moves), _Side(seconds, moves)]
        self._sides[side] = _Side(seconds, moves)

    def budget(self, side: int) -> float | None:
        """Returns the seconds that the next move of a side may take, or None if there is no limit."""
        if self._sides is None:
            return None
        clock = self._sides[side]
        if clock.moves:
            seconds = clock.seconds / clock.moves
        else:
            # Each move in a later period gets this much time, so this one may add it, up to half of the time left.
            period = 0.0 if self._period is None else self._period[0] / self._period[1]
            seconds = clock.seconds / _MOVES_AHEAD + min(period, clock.seconds / 2)
        return max(0.0, 0.9 * seconds - _LATENCY)

    def spend(self, side: int, seconds: float) -> None:
        """Subtracts the time of a move; starts the next period if main time, or the moves of a period, are used up.

        What a move takes beyond the main time is taken from the first period.
        """
        if self._sides is None:
            return
        clock = self._sides[side]
        clock.seconds -= seconds
        if clock.moves:
            clock.moves -= 1
            if clock.moves == 0 and self._period is not None:
                self._sides[side] = _Side(*self._period)
        elif clock.seconds <= 0 and self._period is not None:
            seconds, moves = self._period
            self._sides[side] = _Side(max(0.0, seconds + clock.seconds), moves)
        clock.seconds = max(0.0, clock.seconds)
