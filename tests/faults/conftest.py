"""Fixtures of the fault tests; a run that skips all of them fails."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .disks import Mount, PowerCut


@pytest.fixture
def shop_run(prepared_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the prepared run folder run/ in a working folder with its settings and tables."""
    folder = tmp_path / "shop"
    shutil.copytree(prepared_shop, folder)
    monkeypatch.chdir(folder)
    return folder / "run"


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mount]:
    """Return a function that mounts a file system on a folder; unmount all at the end."""
    folders: list[Path] = []
    if os.geteuid() != 0:
        pytest.skip("needs root")

    def mount(name: str, *flags: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        if subprocess.run(["mount", *flags, folder], check=False, capture_output=True).returncode:
            pytest.skip("cannot mount here")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", "--lazy", folder], check=False)  # a failed test may have it as its working folder


@pytest.fixture
def power_cut(tmp_path: Path, mounted: Mount) -> PowerCut:
    """Return a disk whose power can be cut."""
    return PowerCut.made(tmp_path, mounted)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in which every test was skipped: it shows nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    ended = {outcome: len(reporter.stats.get(outcome, ())) for outcome in ("passed", "failed", "error", "skipped")}
    if ended["skipped"] and not ended["passed"] + ended["failed"] + ended["error"]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
