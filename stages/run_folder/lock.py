"""The lock of a run folder: one process writes to it at a time."""

import contextlib
import fcntl
import os
import socket
import stat
import time
from pathlib import Path
from typing import IO

from stages.terminal.errors import LockedError, SettingsError

from .atomic_files import open_regular
from .layout import LOCK

LOOKS = (0.001, 0.01, 0.05, 0.1)  # seconds between attempts to take the lock


def acquire(folder: Path) -> IO[str]:
    """Lock a folder until the returned file is closed; a dead process holds no lock. Raises LockedError."""
    path = folder / LOCK
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError:
            if path.is_symlink():
                raise SettingsError(f"{path}: is a symbolic link, no lock; remove it", "LOCK") from None
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise SettingsError(f"{path}: is no regular file, no lock; remove it", "LOCK")
        file = os.fdopen(descriptor, "r+", errors="replace")
        try:
            _flock(file)
        except BlockingIOError:
            holder = file.read().strip() or "another process"
            file.close()
            raise LockedError(f"{folder}: in use by {holder}; wait for it or stop it", "LOCKED") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                break
        file.close()  # its last holder removed the file meanwhile: no other process would see this lock
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def _flock(file: IO[str]) -> None:
    """Take the lock; wait up to 0.16 s for a process in `holder`. Raises BlockingIOError."""
    for pause in LOOKS:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(pause)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holder(folder: Path) -> str | None:
    """Return who holds a folder's lock, None if nobody does; change nothing and do not wait."""
    try:
        with os.fdopen(open_regular(folder / LOCK), errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "another process"
    except OSError:
        return None
    return None
