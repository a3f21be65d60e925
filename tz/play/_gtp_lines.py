"""The lines that a GTP interface sends: read beside the search, of limited length, and cleaned as GTP says."""

import io
import queue
import re
import threading

MAX_LINE = 65_536


class TooLongError(Exception):
    """A line of more than `MAX_LINE` bytes."""


class LineReader:
    """Reads lines in a thread of its own, so that whoever thinks can see that there is something to be done."""

    def __init__(self, stream: io.BufferedIOBase):
        self._stream, self._lines = stream, queue.Queue(maxsize=10_000)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        too_long = False
        while part := self._stream.readline(MAX_LINE + 1):
            whole = part.endswith(b"\n")
            if too_long:  # the rest of a line that was refused
                too_long = not whole
            elif len(part) > MAX_LINE:
                self._lines.put(TooLongError())
                too_long = not whole
            else:
                self._lines.put(part.decode("utf-8", "replace"))
        self._lines.put(None)

    def is_waiting(self) -> bool:
        """Whether there is a line, or the end."""
        return not self._lines.empty()

    def next(self) -> str | None:
        """The next line, None at the end.

        **Raises:** `TooLongError` for a line that is too long, of which nothing is kept.
        """
        line = self._lines.get()
        if isinstance(line, TooLongError):
            raise line
        return line


def split_command(line: str) -> tuple[str, str, list[str]]:
    """The id (or nothing), the command (or nothing) and the arguments of a line.

    Control characters are dropped, a tab is a space, and what follows `#` is a comment.
    """
    line = line.split("#", 1)[0].replace("\t", " ")
    line = "".join(letter for letter in line if ord(letter) >= 32 and ord(letter) != 127)
    found = re.match(r"\s*(\d+)(?=\s|$)", line)
    number, rest = ("", line) if found is None else (found[1], line[found.end() :])
    words = rest.split()
    return number, words[0] if words else "", words[1:]
