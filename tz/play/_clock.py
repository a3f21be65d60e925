"""The clocks of two players, by the rules of GTP: main time, and then so many moves in each period (Canadian)."""

import dataclasses

_MOVES_AHEAD = 20  # main time is spent as if there were always so many moves to come
_LATENCY = 0.05  # seconds kept back for what is between the clock and the search


@dataclasses.dataclass
class _Side:
    seconds: float
    moves: int  # to be made in the seconds; 0 in main time


class Clock:
    """Whose time it is, and how much of it a move may take. Without settings there is no limit."""

    def __init__(self):
        self._period: tuple[float, int] | None = None
        self._begin = (0.0, 0)
        self._sides: list[_Side] | None = None

    def set(self, main: float, period: float, moves: int) -> None:
        """The settings of `time_settings`: a period without moves means no limit at all."""
        self._period = (period, moves) if moves else None
        if period > 0 and moves == 0:
            self._sides = None
            return
        self._begin = (period, moves) if main <= 0 and moves else (main, 0)
        self._sides = [_Side(*self._begin), _Side(*self._begin)]

    def restart(self) -> None:
        """Sets both clocks to where they began."""
        if self._sides is not None:
            self._sides = [_Side(*self._begin), _Side(*self._begin)]

    def tell(self, side: int, seconds: float, moves: int) -> None:
        """What an interface says is left."""
        if self._sides is None:
            self._sides = [_Side(seconds, moves), _Side(seconds, moves)]
        self._sides[side] = _Side(seconds, moves)

    def budget(self, side: int) -> float | None:
        """Seconds that the next move may take, or None for no limit."""
        if self._sides is None:
            return None
        clock = self._sides[side]
        if clock.moves:
            seconds = clock.seconds / clock.moves
        else:
            period = 0.0 if self._period is None else self._period[0] / self._period[1]
            seconds = clock.seconds / _MOVES_AHEAD + min(period, clock.seconds / 2)
        return max(0.0, 0.9 * seconds - _LATENCY)

    def spend(self, side: int, seconds: float) -> None:
        """Takes the time of a move off, and goes on to the next period where one is over."""
        if self._sides is None:
            return
        clock = self._sides[side]
        clock.seconds -= seconds
        if clock.moves:
            clock.moves -= 1
            if clock.moves == 0 and self._period is not None:
                self._sides[side] = _Side(*self._period)
        elif clock.seconds <= 0 and self._period is not None:
            self._sides[side] = _Side(*self._period)
        clock.seconds = max(0.0, clock.seconds)
