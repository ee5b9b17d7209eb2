"""What the fault tests begin with, and that they are not all skipped."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .disks import Mount, PowerCut


@pytest.fixture
def shop_run(prepared_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prepared run folder, run/, beside its settings and tables; they are the working folder."""
    folder = tmp_path / "shop"
    shutil.copytree(prepared_shop, folder)
    monkeypatch.chdir(folder)
    return folder / "run"


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a file system on a folder, and takes it down at the end."""
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
        subprocess.run(["umount", "--lazy", folder], check=False)  # a failed test may stand in it


@pytest.fixture
def power_cut(tmp_path: Path, mounted: Mount) -> PowerCut:
    """A disk, and how its power is cut."""
    return PowerCut.made(tmp_path, mounted)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where every test was skipped: such a run shows nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    ended = {outcome: len(reporter.stats.get(outcome, ())) for outcome in ("passed", "failed", "error", "skipped")}
    if ended["skipped"] and not ended["passed"] + ended["failed"] + ended["error"]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
