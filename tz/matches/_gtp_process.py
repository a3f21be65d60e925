"""A running engine that speaks GTP: one command, one answer, and a clear word about an engine that fails."""

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

_PACKAGES = {"gtp-rhino": "grhino"}  # Debian packages that are not called like their program
_EXTRA_FOLDERS = "/usr/games"  # where Debian puts engines, which is not on the PATH of every process
_NUM_LAST_LINES = 6
_LONGEST_LINE = 65_536


class EngineError(Exception):
    """An engine that cannot go on: it ended, gave no answer in time, or said something that is not GTP."""


class RefusedError(Exception):
    """An engine that answered `?`, with the reason it gave."""


def words_of(command: str) -> list[str]:
    """The program and the arguments of a command line, the program by its path.

    **Raises:** `ValueError` if the line cannot be read, or there is no such program; it names the Debian package.
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
    """A process of an engine. `close` ends and reaps it, whatever state it is in; it is a context manager too."""

    def __init__(self, command: str, timeout: float):
        self.command, self.timeout = command, timeout
        self._last_lines: collections.deque[str] = collections.deque(maxlen=_NUM_LAST_LINES)
        self._answers: queue.Queue[str | None] = queue.Queue(maxsize=10_000)
        self._closed = threading.Event()
        self._process = subprocess.Popen(
            words_of(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that its own children end with it, and Ctrl+C reaches Python alone
        )
        pipes = (self._process.stdout, True), (self._process.stderr, False)
        self._readers = [threading.Thread(target=self._read, args=pipe, daemon=True) for pipe in pipes]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe, is_answer: bool) -> None:
        """Passes on the lines of one pipe, until it ends."""
        while line := pipe.readline(_LONGEST_LINE):
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if text.strip(" ="):
                self._last_lines.append(text[:200])
            if is_answer:
                self._put(text)
        if is_answer:
            self._put(None)

    def _put(self, text: str | None) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                return self._answers.put(text, timeout=0.2)

    def ask(self, command: str) -> str:
        """The answer to a command, without `=` and the spaces around it.

        **Raises:** `RefusedError` for the answer `?`; `EngineError` if the engine ended, gave no whole answer within
        `timeout` seconds, or does not speak GTP.
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
            elif lines:
                break
        text = "\n".join(lines).lstrip()
        if text[0] not in "=?":
            raise self._failure(f"the answer to {command!r} does not begin with = or ?, as GTP has it")
        if text[0] == "?":
            raise RefusedError(text[1:].strip())
        return text[1:].strip()

    def _failure(self, what: str, *, ended: bool = False) -> EngineError:
        self.close(politely=False)  # so that its last words are all there
        code = f" (exit code {self._process.returncode})" if ended else ""
        return EngineError(f"{self.command}: {what}{code}; {self.last_words()}")

    def last_words(self) -> str:
        """The last lines that the engine wrote, for a message."""
        return f"its last lines: {' | '.join(self._last_lines) or 'none'}"

    def close(self, *, politely: bool = True) -> None:
        """Ends the process, with `quit` if it listens, and waits until it is gone."""
        if self._closed.is_set():
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if politely:
                self._process.stdin.write(b"quit\n")
            self._process.stdin.close()
            self._process.wait(2.0 if politely else 0.2)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._closed.set()
        for reader, pipe in zip(self._readers, (self._process.stdout, self._process.stderr), strict=True):
            reader.join(2.0)
            if not reader.is_alive() and pipe is not None:
                pipe.close()

    def __enter__(self) -> "GtpProcess":
        return self

    def __exit__(self, *_) -> None:
        self.close()
