"""What the fault tests begin with, and that they are not all skipped."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def shop_run(prepared_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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
