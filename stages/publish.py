"""Files that appear whole or not at all, and the lock of a folder that one process writes to at a time."""

import contextlib
import fcntl
import hashlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .errors import LockedError, SettingsError

LOCK = ".lock"
TEMPORARY = re.compile(r"^\..+\.\d+\.tmp$")


def sha256(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_for(target: Path) -> Path:
    """Name the file that is written in the place of `target`: in its folder, so that a rename can publish it."""
    return target.with_name(f".{target.name}.{os.getpid()}.tmp")


def sync(file: IO[bytes]) -> None:
    """Bring a file's content to the disk."""
    file.flush()
    os.fsync(file.fileno())


def move_into_place(temporary: Path, target: Path) -> None:
    """Publish a synced file: readers see the old one or the new one, and after a power cut the new one is there."""
    temporary.replace(target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """Write a file beside its place, sync it, and move it there when the block ends without an exception."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(target)
    try:
        with temporary.open("wb") as file:
            yield file
            sync(file)
        move_into_place(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def lock(folder: Path) -> IO[str]:
    """Take a folder's lock until the file is closed; one left by a dead process is free. Raises LockedError."""
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError:
        if path.is_symlink():
            raise SettingsError(f"{path}: is a symbolic link, no lock; remove it", "LOCK") from None
        raise
    file = os.fdopen(descriptor, "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = file.read().strip() or "another process"
        file.close()
        raise LockedError(f"{folder}: in use by {holder}; wait for it or stop it", "LOCKED") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written, in the folder and the one below; call it under the lock."""
    for path in [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp"), *folder.glob("*/*/.*.tmp")]:
        if TEMPORARY.match(path.name):
            path.unlink(missing_ok=True)
