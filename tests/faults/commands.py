"""Run commands of the tool, in this process or in another, and hash the files of a folder."""

import contextlib
import hashlib
import io
import signal
import sys
from pathlib import Path
from typing import NamedTuple

from stages.cli import main

COMMAND = [sys.executable, "-c", "from stages.cli import main; main()"]


class Ended(NamedTuple):
    """The exit code of a command, and its text on both streams."""

    returncode: int
    said: str


def call(*arguments: str) -> Ended:
    """Run a command in this process, which has already imported the libraries."""
    said, argv, handler = io.StringIO(), sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = ["ssl-recall", *arguments]
    code: object = 0
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            main()
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
    return Ended(code if isinstance(code, int) else 0, said.getvalue())


def content(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file of a folder, without the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
