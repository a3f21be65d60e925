"""Reads lines from a GTP interface, in a thread beside the search, and cleans them as GTP prescribes."""

import io
import queue
import re
import threading

MAX_LINE = 65_536


class TooLongError(Exception):
    """A line is longer than `MAX_LINE` bytes."""


class LineReader:
    """Reads lines in a separate thread, so that a running search can notice that a command is waiting."""

    def __init__(self, stream: io.BufferedIOBase):
        self._stream, self._lines = stream, queue.Queue(maxsize=10_000)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        too_long = False
        while part := self._stream.readline(MAX_LINE + 1):
            whole = part.endswith(b"\n")
            if too_long:  # still the rest of a line that was refused
                too_long = not whole
            elif len(part) > MAX_LINE:
                self._lines.put(TooLongError())
                too_long = not whole
            else:
                self._lines.put(part.decode("utf-8", "replace"))
        self._lines.put(None)

    def is_waiting(self) -> bool:
        """Returns True if a line, or the end of the input, is waiting."""
        return not self._lines.empty()

    def next(self) -> str | None:
        """Waits for the next line and returns it; returns None at the end of the input.

        **Raises:** `TooLongError` for a line that is too long. Nothing of it is kept.
        """
        line = self._lines.get()
        if isinstance(line, TooLongError):
            raise line
        return line


def split_command(line: str) -> tuple[str, str, list[str]]:
    """Splits a line into its id, its command and its arguments. The id and the command may be empty.

    As GTP prescribes, control characters are dropped, a tab counts as a space, and `#` begins a comment.
    """
    line = line.split("#", 1)[0].replace("\t", " ")
    line = "".join(letter for letter in line if ord(letter) >= 32 and ord(letter) != 127)
    found = re.match(r"\s*(\d+)(?=\s|$)", line)
    number, rest = ("", line) if found is None else (found[1], line[found.end() :])
    words = rest.split()
    return number, words[0] if words else "", words[1:]
