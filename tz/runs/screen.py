"""Shows the progress of a run: a line that is rewritten on a terminal, and a line for each epoch elsewhere."""

import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tz.runs.sinks import plain

_FIRST = {
    "warm-up": "warm-up: compiles self-play and plays the first moves, before anything is learned",
    "self-play": "compiles self-play",
    "training": "compiles the gradient step",
    "testing": "compiles the first test",
}
_ROW_SECONDS = 60.0  # on a terminal, the time after which a permanent row is printed
_WIDE = 150  # columns; a terminal that is narrower shows less
_LEGEND = "loss: the policy loss minus its floor, the entropy of the targets"


class Screen:
    """Shows the progress of a run as the command line does. It is a sink that also follows the phases of an epoch.

    On a terminal, it rewrites one line, and prints a permanent row for each test and about every minute. Elsewhere,
    such as in a file or a notebook, it prints a short line for each epoch. Close it at the end, or use a `with`
    statement:

    ```
    metrics = tz.JsonLinesSink("metrics.jsonl")
    with tz.runs.Screen(num_epochs=20, totals=metrics.totals) as screen:
        tz.train_loop(config, env, state, num_epochs=20, sinks=[metrics, screen], progress=screen.phase)
    ```

    **Arguments:**

    - `seconds`, `num_epochs`: the length of the run. Give one of them, or none if the length is not known.
    - `totals`: a function that returns the number of games so far as `total_games`, such as
        [`tz.JsonLinesSink.totals`][].
    - `done`: the seconds and the epochs of the run before it was resumed.
    - `stream`: the text file to write to; by default standard output.
    """

    def __init__(
        self,
        *,
        seconds: float | None = None,
        num_epochs: int | None = None,
        totals: Callable[[], Mapping[str, int | float]] = dict,
        done: tuple[float, int] = (0.0, 0),
        stream: Any = None,
    ):
        self.seconds, self.num_epochs, self.totals, self.epoch = seconds, num_epochs, totals, done[1]
        self.begun = time.monotonic() - done[0]
        self._stream = sys.stdout if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self._phase, self._seen, self._facts, self._test = "", set(), "", ""
        self._is_short = self._is_terminal and _columns() < _WIDE
        self._row_at, self._lock, self._ended = time.monotonic(), threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True) if self._is_terminal else None
        if self._thread is not None:
            self._thread.start()

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def phase(self, name: str) -> None:
        """Shows which phase begins. The first time, it adds that the phase is compiled, since this takes long.

        **Arguments:**

        - `name`: the name of the phase, as the argument `progress` of [`tz.train_loop`][] gets it.
        """
        is_first, self._phase = name not in self._seen, name
        self._seen.add(name)
        if name == "warm-up":  # which compiles self-play
            self._seen.add("self-play")
        if is_first and name in _FIRST:
            self._phase = _FIRST[name]
            if not self._is_terminal:
                self._print(f"{self._phase} ...")
        self._refresh()

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        """Shows the metrics of an epoch."""
        values = {name: plain(x) for name, x in metrics.items()}
        self.epoch = int(metrics["epoch"]) + 1
        tested = result_text(values, only_first=self._is_short)
        if self._is_short and not self._facts and "policy_loss_floor" in values:
            self._print(_LEGEND)
        self._facts, self._test = epoch_text(values, self.totals(), self._is_short), tested or self._test
        is_due = time.monotonic() - self._row_at >= _ROW_SECONDS
        if not self._is_terminal:
            self._print(self._line(tested))
        elif tested or is_due:
            self._row_at = time.monotonic()
            self._print(self._line(self._test if self._is_short else tested))
        self._refresh()

    def say(self, text: str) -> None:
        """Prints `text` as a permanent line."""
        self._print(text)
        self._refresh()

    def close(self) -> None:
        """Clears the line that is rewritten, and stops rewriting it."""
        if self._thread is not None and not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            self._write("\r\x1b[K")

    def _line(self, test: str) -> str:
        """Returns the line of an epoch: length, facts, and the results of a test."""
        epoch = [] if self._is_short and self.seconds is not None else [f"epoch {self.epoch}"]
        parts = [self._length(), *epoch, self._facts, test]
        return "  ".join(part for part in parts if part)

    def _length(self) -> str:
        """Returns how much of the run is done."""
        elapsed = time.monotonic() - self.begun
        if self.seconds is not None:
            return f"{min(elapsed / self.seconds, 1):3.0%}  {clock(elapsed)} of {clock(self.seconds)}"
        if self.num_epochs:
            return f"{min(self.epoch / self.num_epochs, 1):3.0%}  {clock(elapsed)}"
        return clock(elapsed)

    def _tick(self) -> None:
        """Rewrites the line every second, in a thread, so that its clock runs during long epochs."""
        while not self._ended.wait(1.0):
            self._refresh()

    def _refresh(self) -> None:
        if not self._is_terminal or self._ended.is_set():
            return
        if self._facts and self._phase not in _FIRST.values():
            line = self._line(self._test)
        else:
            line = f"{self._length()}  {self._phase} ..." if self._phase else self._length()
        # "\r\x1b[K" returns to the start of the line and clears it. A line as wide as the terminal would wrap.
        self._write(f"\r\x1b[K{line[: _columns() - 1]}")

    def _print(self, text: str) -> None:
        self._write(f"\r\x1b[K{text}\n" if self._is_terminal else f"{text}\n")

    def _write(self, text: str) -> None:
        with self._lock:
            self._stream.write(text)
            self._stream.flush()


def _columns() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def clock(seconds: float | int) -> str:
    """Writes a length of time as a clock shows it: `3:07`, `1:03:07`."""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def epoch_text(values: Mapping[str, Any], totals: Mapping[str, int | float], is_short: bool = False) -> str:
    """Writes the games so far, the speed and the losses of an epoch, in a long or a short form."""
    count = _rounded if is_short else "{:,.0f}".format
    parts = []
    if "seed" in values:
        parts.append(f"seed {values['seed']}")
    if "total_games" in totals:
        parts.append(f"{count(totals['total_games'])} games")
    if "moves_per_second" in values:
        parts.append(f"{count(values['moves_per_second'])} moves/s")
    if {"policy_loss", "policy_loss_floor"} <= set(values):
        excess = values["policy_loss"] - values["policy_loss_floor"]
        parts.append(f"loss {excess:.3f}" if is_short else f"policy loss {excess:.3f} above its floor")
    elif "loss" in values:
        parts.append(f"loss {values['loss']:.3f}")
    if "value_loss" in values and not is_short:
        parts.append(f"value loss {values['value_loss']:.3f}")
    return "  ".join(parts)


def _rounded(number: float | int) -> str:
    """Writes a number with three digits and a unit: `27.4k`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if float(f"{number:.3g}") >= size:  # 999,600 is 1M
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def result_text(values: Mapping[str, Any], *, only_first: bool = False) -> str:
    """Writes the test results that are among the metrics, each with its interval. Results that are NaN are left out."""
    found = []
    for name, value in values.items():
        low, high = (values.get(f"{name}_{end}") for end in ("low", "high"))
        if not _are_numbers((value, low, high)):
            continue
        digits = 2 if name.endswith("_score") else 0 if abs(value) >= 100 or "elo" in name else 1
        label = name.replace("elo", "Elo").replace("_", " ").removesuffix(" score")
        found.append(f"{label} {value:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})")
    heights = {name: x for name, x in values.items() if name.endswith("_height") and _are_numbers((x,))}
    heights = [f"{name.replace('_', ' ')} {x:.2f}" for name, x in heights.items()]
    return ", ".join((heights + found)[: 1 if only_first else None])


def _are_numbers(values: Sequence[Any]) -> bool:
    """Returns whether all values are finite numbers."""
    numbers = (isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return all(numbers) and all(math.isfinite(value) for value in values)
