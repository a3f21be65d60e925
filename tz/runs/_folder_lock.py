"""A lock on the folder of a run, so that two processes never write to one folder."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


@contextlib.contextmanager
def folder_lock(folder: pathlib.Path) -> Iterator[None]:
    """Holds the folder of a run for this process alone. A missing folder is made, and removed if it stays empty.

    The operating system drops the lock when the process ends, however it ends. Where it has no such locks, as on some
    network file systems, nothing is locked.

    **Raises:** `ValueError` if another process holds the folder.
    """
    was_there, path = folder.exists(), folder / ".lock"
    with contextlib.suppress(OSError):  # `Checkpoints` reports that the folder cannot be written to
        folder.mkdir(parents=True, exist_ok=True)
    file = _lock(fcntl, path)
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)  # while it is still locked, so that no other process can hold this file
            os.close(file)
        if not was_there:
            with contextlib.suppress(OSError):  # the folder is not empty
                folder.rmdir()


def _lock(locks: Any, path: pathlib.Path) -> int | None:
    """Opens and locks a file, and returns its descriptor, or None where there are no locks."""
    while locks is not None:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return None
        try:
            locks.flock(file, locks.LOCK_EX | locks.LOCK_NB)
            if os.fstat(file).st_ino == path.stat().st_ino:
                os.truncate(file, 0)
                os.write(file, str(os.getpid()).encode())
                return file
        except BlockingIOError as error:
            owner = os.read(file, 20).decode(errors="replace")
            os.close(file)
            raise ValueError(
                f"train_run: found that process {owner} trains in {path.parent}, expected a folder that no other "
                "process writes to; wait until it ends, or choose another folder."
            ) from error
        except FileNotFoundError:
            pass
        except OSError:
            os.close(file)
            return None
        os.close(file)  # its last owner has removed the file in the meantime, so a new one is made
    return None
