"""Files that appear whole or not at all, and the lock of a folder that one process writes to at a time."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .errors import LockedError, SettingsError

LOCK = ".lock"
LOOKS = (0.001, 0.01, 0.05, 0.1)  # seconds between tries to take it
# nanoseconds after which a file system's clock has surely moved on: FAT's, the coarsest, takes two seconds
SETTLED = 2_000_000_000
TEMPORARY = re.compile(r"^\..+\.\d+\.tmp$")
FOLDERS = ("", "model", "checkpoints", "no-ssl", "no-ssl/model", "no-ssl/checkpoints", "ablation", "tuning")


def sha256(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_and_change_time(descriptor: int) -> tuple[str, int | None]:
    """Hash an open file, and give its change time in nanoseconds, by which `unchanged_since` tells that it is the same.

    The time is None where the file was written a moment ago or while it was hashed: the clock that stamps it may not
    have moved on between two writes. What a program has written through a mapping is brought to the disk first, since
    only then its next write moves the time; a file system in memory (tmpfs) moves it for no such write.
    """
    with contextlib.suppress(OSError):
        os.fdatasync(descriptor)
    before = os.fstat(descriptor).st_ctime_ns
    settled = before < time.time_ns() - SETTLED
    digest = sha256(path_of(descriptor))
    return digest, before if settled and unchanged_since(descriptor, before) else None


def unchanged_since(descriptor: int, changed: int) -> bool:
    """Tell whether an open file still has that change time (ctime), which writes move and no program can set."""
    return os.fstat(descriptor).st_ctime_ns == changed


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
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
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
        file.close()  # its last holder has removed it meanwhile: nobody else would see this lock
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def _flock(file: IO[str]) -> None:
    """Take a lock, and wait a moment for somebody who only looks (`holder`). Raises BlockingIOError."""
    for pause in LOOKS:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(pause)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holder(folder: Path) -> str | None:
    """Say who has a folder's lock, None where nobody does; changes nothing, and is through in a moment."""
    try:
        with os.fdopen(held(folder / LOCK), errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "another process"
    except OSError:
        return None
    return None


def temporaries(folder: Path) -> list[Path]:
    """List what is half written in the folders that are ours; follows no link."""
    found = []
    for below in FOLDERS:
        inside = folder / below
        if (
            any(part.is_symlink() for part in (inside, *inside.parents[: len(Path(below).parts)]))
            or not inside.is_dir()
        ):
            continue
        found += [p for p in inside.iterdir() if TEMPORARY.match(p.name) and (p.is_symlink() or not p.is_dir())]
    return found


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written; call it under the lock."""
    for path in temporaries(folder):
        path.unlink(missing_ok=True)


def probe(folder: Path) -> None:
    """Refuse at once a folder that takes no file, or is not there and cannot be made. Raises OSError."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    temporary = temporary_for(there / "probe")
    temporary.touch()
    temporary.unlink()


def held(path: Path) -> int:
    """Open a regular file to read, and give its descriptor: what it is stays, whatever is put in its place.

    Raises OSError, for anything else that stands there, too.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe is not waited for
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return descriptor


def path_of(descriptor: int) -> Path:
    """Name an open file so that it can be opened again, from its beginning."""
    return Path(f"/dev/fd/{descriptor}")
