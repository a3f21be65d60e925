"""Writes the candidate moves of a search in the formats that GTP interfaces read.

No lower confidence bound is computed here, so `lcb` repeats the winrate.
"""

from collections.abc import Callable

from tz.play._thinking import Candidate


def leela_line(candidates: list[Candidate], shown: Callable[[str], str]) -> str:
    """Returns the report of `lz-analyze`, in the format of Leela Zero: fractions are given in units of 1/10000."""
    return " ".join(
        f"info move {shown(move.name)} visits {move.visits} winrate {round(1e4 * _rate(move.value))} "
        f"prior {round(1e4 * move.prior)} lcb {round(1e4 * _rate(move.value))} order {order} pv {_pv(move, shown)}"
        for order, move in enumerate(candidates)
    )


def kata_line(candidates: list[Candidate], shown: Callable[[str], str]) -> str:
    """Returns the report of `kata-analyze`, in the format of KataGo: fractions from 0 to 1, `utility` from -1 to 1."""
    return " ".join(
        f"info move {shown(move.name)} visits {move.visits} utility {move.value:.6f} winrate {_rate(move.value):.6f} "
        f"prior {move.prior:.6f} lcb {_rate(move.value):.6f} order {order} pv {_pv(move, shown)}"
        for order, move in enumerate(candidates)
    )


def _rate(value: float) -> float:
    """Converts a value from -1 to 1 into a winrate from 0 to 1."""
    return min(1.0, max(0.0, (value + 1) / 2))


def _pv(move: Candidate, shown: Callable[[str], str]) -> str:
    return " ".join(shown(name) for name in move.line)
