"""Write files that appear whole or not at all; hash and open the files of a run folder."""

import contextlib
import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .layout import FOLDERS

# nanoseconds after which a file system's clock has surely ticked: the coarsest, FAT's, ticks every two seconds
SETTLED = 2_000_000_000
TEMPORARY = re.compile(r"^\..+\.\d+\.tmp$")


def sha256(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_and_change_time(descriptor: int) -> tuple[str, int | None]:
    """Return an open file's hash and its change time in nanoseconds, for `unchanged_since`.

    The time is None if the file was written a moment ago or while it was hashed: the clock may not have ticked between
    two writes. Writes through a mapping are flushed to the disk first: only then does the program's next write move the
    time. On tmpfs, a file system in memory, a write through a mapping never moves it.
    """
    with contextlib.suppress(OSError):
        os.fdatasync(descriptor)
    before = os.fstat(descriptor).st_ctime_ns
    settled = before < time.time_ns() - SETTLED
    digest = sha256(descriptor_path(descriptor))
    return digest, before if settled and unchanged_since(descriptor, before) else None


def unchanged_since(descriptor: int, changed: int) -> bool:
    """Tell whether an open file still has this change time (ctime): writes move it, and no program can set it."""
    return os.fstat(descriptor).st_ctime_ns == changed


def temporary_for(target: Path) -> Path:
    """Name a temporary file for `target`, in the same folder, so that a rename can publish it."""
    return target.with_name(f".{target.name}.{os.getpid()}.tmp")


def sync(file: IO[bytes]) -> None:
    """Flush a file's content to the disk."""
    file.flush()
    os.fsync(file.fileno())


def move_into_place(temporary: Path, target: Path) -> None:
    """Publish a synced file: readers see the old or the new one; after a power cut the new one is there."""
    temporary.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's file names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """Write a temporary file; sync and publish it as `target` if the block ends without an exception."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(target)
    try:
        with temporary.open("wb") as file:
            yield file
            sync(file)
        move_into_place(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def temporaries(folder: Path) -> list[Path]:
    """List the temporary files in the folders of a run folder; follow no link."""
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
    """Remove the temporary files of killed processes; call it under the lock."""
    for path in temporaries(folder):
        path.unlink(missing_ok=True)


def probe(folder: Path) -> None:
    """Refuse a folder that takes no file or cannot be made. Raises OSError."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    temporary = temporary_for(there / "probe")
    temporary.touch()
    temporary.unlink()


def open_regular(path: Path) -> int:
    """Open a regular file and return its descriptor, which keeps this file even if another one replaces it.

    Raises OSError, also for a pipe, a folder or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # do not wait for a pipe
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return descriptor


def descriptor_path(descriptor: int) -> Path:
    """Return a path that opens an open file again, from its beginning."""
    return Path(f"/dev/fd/{descriptor}")
