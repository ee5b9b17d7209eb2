"""Commands as a process of the system, and in this one; folders as what is in them."""

import contextlib
import hashlib
import io
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from stages.cli import main

COMMAND = [sys.executable, "-c", "from stages.cli import main; main()"]


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    returncode: int
    said: str


def in_this_process(*arguments: str) -> Ended:
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


@pytest.fixture
def call() -> Callable[..., Ended]:
    """Run a command in this process, which has imported everything."""
    return in_this_process


def content(folder: Path) -> dict[str, str]:
    """Give every file of a folder by its sha256, the lock aside."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def files() -> Callable[[Path], dict[str, str]]:
    """What is in a folder, by sha256."""
    return content


@pytest.fixture
def shop(prepared_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prepared run folder, run/, beside its settings and tables; they are the working folder."""
    folder = tmp_path / "shop"
    shutil.copytree(prepared_shop, folder)
    monkeypatch.chdir(folder)
    return folder / "run"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where every test was skipped: such a run shows nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    ended = {outcome: len(reporter.stats.get(outcome, ())) for outcome in ("passed", "failed", "error", "skipped")}
    if ended["skipped"] and not ended["passed"] + ended["failed"] + ended["error"]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
