"""A disk that loses unsynced data when its power is cut."""

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
WITHOUT_LOG = 2  # do not write out the file system's journal
OPTIONS = "loop,noauto_da_alloc"  # with auto_da_alloc ext4 would sync renamed files by itself

Mount = Callable[..., Path]  # (name, *flags of mount) -> the folder


@dataclass(frozen=True)
class PowerCut:
    """A disk whose power can be cut: it comes back with the synced data only."""

    disk: Path
    image: Path

    @classmethod
    def made(cls, folder: Path, mount: Mount) -> "PowerCut":
        """Make a disk of 64 MiB; skip the test if that is impossible here."""
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("needs mkfs.ext4")
        image = folder / "disk.img"
        image.write_bytes(b"")
        os.truncate(image, 64 * 2**20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        return cls(mount("disk", "-o", OPTIONS, str(image)), image)

    def __call__(self) -> None:
        """Cut the power and restore it."""
        descriptor = os.open(self.disk, os.O_RDONLY)
        fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_LOG))
        os.close(descriptor)
        subprocess.run(["umount", self.disk], check=True)
        subprocess.run(["mount", "-o", OPTIONS, self.image, self.disk], check=True)
