"""Runs an engine that speaks GTP as a subprocess, sends it commands one at a time, and describes its failures."""

import collections
import contextlib
import os
import pathlib
import queue
import shlex
import shutil
import signal
import subprocess
import threading
import time

_PACKAGES = {"gtp-rhino": "grhino"}  # Debian packages whose name differs from their program
_EXTRA_FOLDERS = "/usr/games"  # Debian installs engines there, and not every PATH has it
_NUM_LAST_LINES = 6
_LONGEST_LINE = 65_536  # bytes, so that an engine that never ends its line cannot fill the memory


class EngineError(Exception):
    """Raised when an engine cannot start or continue: it ended, was too slow, or wrote something that is not GTP."""


class RefusedError(Exception):
    """Raised when an engine answers `?`; the message is the reason that it gave."""


def words_of(command: str) -> list[str]:
    """Splits a command line into the path of the program and its arguments.

    **Raises:** `ValueError` if the line cannot be parsed, or if there is no such program. The message then names the
    Debian package that probably has it.
    """
    try:
        program, *arguments = shlex.split(command)
    except ValueError as error:
        raise ValueError(
            f"GtpEngine: found command={command!r}, expected a program with its arguments; write it as in a shell."
        ) from error
    found = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), _EXTRA_FOLDERS]))
    if found is None:
        name = pathlib.Path(program).name
        raise ValueError(
            f"GtpEngine: found no program {program!r}, expected an engine that is installed; on Debian or Ubuntu, try "
            f"`apt-get install {_PACKAGES.get(name, name)}`, or give the path of the program."
        )
    return [found, *arguments]


class GtpProcess:
    """Runs one engine process. `close` ends and reaps it in any state, and so does leaving a `with` block.

    Two threads read its standard output and standard error, since an engine that writes to a full pipe would block.

    **Raises:** `EngineError` if the program cannot be started, and the errors of `words_of`.
    """

    def __init__(self, command: str, timeout: float):
        self.command, self.timeout = command, timeout
        self._last_lines: collections.deque[str] = collections.deque(maxlen=_NUM_LAST_LINES)
        self._answers: queue.Queue[str | None] = queue.Queue(maxsize=10_000)
        self._closed = threading.Event()
        words = words_of(command)
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # `close` can kill its children too, and Ctrl+C reaches only Python
            )
        except OSError as error:
            raise EngineError(
                f"{command}: found that {words[0]} cannot be started ({error.strerror}), expected a program, or a "
                "script that begins with #! and its interpreter; name the interpreter first, as in `python3 engine.py`"
            ) from error
        pipes = (self._process.stdout, True), (self._process.stderr, False)
        self._readers = [threading.Thread(target=self._read, args=pipe, daemon=True) for pipe in pipes]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe, is_answer: bool) -> None:
        """Reads the lines of one pipe until it ends; lines of standard output are queued for `ask`."""
        while line := pipe.readline(_LONGEST_LINE):
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if text.strip(" ="):  # an empty answer, `=`, is of no use in a message
                self._last_lines.append(text[:200])
            if is_answer:
                self._put(text)
        if is_answer:
            self._put(None)  # tells `ask` that no answer will come

    def _put(self, text: str | None) -> None:
        """Queues a line, and gives up once the process is closed, when nobody empties a full queue."""
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                return self._answers.put(text, timeout=0.2)

    def ask(self, command: str) -> str:
        """Sends a command and returns the answer, without `=` and the spaces around it.

        **Raises:** `RefusedError` if the answer begins with `?`. `EngineError` if the engine ended, gave no complete
        answer within `timeout` seconds, or wrote something that is not GTP; the process is closed then.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{command}\n".encode())
            self._process.stdin.flush()
        except OSError as error:
            raise self._failure(f"it ended before it was asked {command!r}", ended=True) from error
        deadline, lines = time.monotonic() + self.timeout, []
        while True:
            try:
                line = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise self._failure(f"no answer to {command!r} in {self.timeout:g} s") from None
            if line is None:
                raise self._failure(f"it ended when it was asked {command!r}", ended=True)
            if line.strip():
                lines.append(line)
            elif lines:  # in GTP, an empty line ends an answer
                break
        text = "\n".join(lines).lstrip()
        if text[0] not in "=?":
            raise self._failure(f"the answer to {command!r} does not begin with = or ?, as GTP requires")
        if text[0] == "?":
            raise RefusedError(text[1:].strip())
        return text[1:].strip()

    def _failure(self, what: str, *, ended: bool = False) -> EngineError:
        """Closes the process and returns an error that says what went wrong."""
        self.close(politely=False)  # first, so that the message has all that the engine wrote
        code = f" (exit code {self._process.returncode})" if ended else ""
        return EngineError(f"{self.command}: {what}{code}; {self.last_words()}")

    def last_words(self) -> str:
        """Returns the last lines that the engine wrote, for a message."""
        return f"its last lines: {' | '.join(self._last_lines) or 'none'}"

    def close(self, *, politely: bool = True) -> None:
        """Ends the process and waits until it is gone. `politely` sends `quit` first and gives it two seconds."""
        if self._closed.is_set():
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if politely:
                self._process.stdin.write(b"quit\n")
            self._process.stdin.close()
            self._process.wait(2.0 if politely else 0.2)
        self.kill()
        self._process.wait()
        self._closed.set()
        for reader, pipe in zip(self._readers, (self._process.stdout, self._process.stderr), strict=True):
            reader.join(2.0)
            if not reader.is_alive() and pipe is not None:
                pipe.close()

    def kill(self) -> None:
        """Kills the process and its children, also those of an engine that has ended. `ask` fails at once then."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def __enter__(self) -> "GtpProcess":
        return self

    def __exit__(self, *_) -> None:
        self.close()
