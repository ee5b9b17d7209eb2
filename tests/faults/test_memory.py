"""Too little memory for a stage: one line names need and available memory, before any work."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stages.run_folder import memory_floor

from .commands import COMMAND, call, content

MIB = 2**20


def limited(addresses: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))


@pytest.mark.parametrize("mib", [300, 600, 900])
def test_f05_too_few_addresses_are_exit_5_before_any_work(shop_run: Path, mib: int) -> None:
    assert subprocess.run([*COMMAND, "build-views"], check=False, capture_output=True).returncode == 0
    before = content(shop_run)
    command = [*COMMAND, "train", "--epochs", "1000", "--patience", "1000"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, preexec_fn=limited(mib * MIB), timeout=60
    )
    assert done.returncode == 5, done.stderr
    assert "OUT_OF_MEMORY: train needs at least" in done.stderr
    assert "GiB of address space (ulimit -v), there are" in done.stderr
    assert "Traceback" not in done.stderr
    assert content(shop_run) == before


ABORTS = """
import resource
import polars as pl
from ssl_recall import popularity
from stages import cli

def count(*_):
    pages = int(open("/proc/self/statm").read().split()[0])
    most = pages * resource.getpagesize() + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    pl.int_range(10**9, eager=True)  # polars is refused 8 GB, and calls abort()

popularity.count_items = count
cli.main()
"""


def test_f05_an_engine_that_aborts_for_want_of_memory_is_exit_5(shop_run: Path) -> None:
    before = content(shop_run)
    command = ["compute-popularity", "--unseen-count", "0.5"]
    aborted = subprocess.run([sys.executable, "-c", ABORTS, *command], check=False, capture_output=True, text=True)
    assert "memory allocation of 8000000000 bytes failed" in aborted.stderr
    assert aborted.returncode == 5, aborted.stderr
    assert "ssl-recall: OUT_OF_MEMORY: a library aborted" in aborted.stderr
    assert content(shop_run) == before
    assert call(*command).returncode == 0


@pytest.mark.parametrize("command", ["tune", "ablate"])
def test_f05_arms_whose_table_is_beyond_the_machine_are_refused_before_any_training(
    shop_run: Path, command: str
) -> None:
    settings = shop_run.parent / "ssl-recall.toml"
    settings.write_text(settings.read_text().replace("embedding_width = 8", f"embedding_width = {10**10}"))
    before = content(shop_run)
    refused = call(command)
    assert refused.returncode == 5, refused.said
    assert f"OUT_OF_MEMORY: {command} needs at least" in refused.said
    assert content(shop_run) == before


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a memory group of 200 MiB."""
    own = next((folder for folder, most, _ in memory_floor._groups() if (folder / most).exists()), None)
    if own is None or os.geteuid() != 0:
        pytest.skip("cannot make a memory group here")
    name = "memory.limit_in_bytes" if (own / "memory.limit_in_bytes").exists() else "memory.max"
    folder = own / "ssl-recall-test"
    try:
        folder.mkdir()
        (folder / name).write_text(str(200 * MIB))
    except OSError:
        pytest.skip("cannot make a memory group here")
    yield folder
    for _ in range(100):
        try:
            folder.rmdir()
            return
        except OSError:
            time.sleep(0.05)


def test_f05_a_group_with_too_little_memory_is_exit_5_before_any_work(shop_run: Path, group: Path) -> None:
    assert subprocess.run([*COMMAND, "build-views"], check=False, capture_output=True).returncode == 0
    before = content(shop_run)
    enter = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    done = subprocess.run([*enter, *COMMAND, "train"], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 5, (done.returncode, done.stderr)
    assert "GiB of memory, there are 0." in done.stderr
    assert content(shop_run) == before


def test_f05_a_table_beyond_the_machine_is_refused_with_need_and_have(shop_run: Path) -> None:
    assert call("build-views").returncode == 0
    start = time.monotonic()
    refused = call("train", "--embedding-width", "1000000000")
    assert refused.returncode == 5
    assert "OUT_OF_MEMORY: train needs at least" in refused.said
    assert "take smaller widths or a larger machine, or set SSL_RECALL_ANY_MEMORY=1" in refused.said
    assert time.monotonic() - start < 10


def test_f05_who_wants_to_try_all_the_same_may(shop_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory_floor.ANYWAY, "1")
    assert call("build-views").returncode == 0
    refused = call("train", "--embedding-width", "1000000000")
    assert refused.returncode == 5, refused.said  # torch's own refusal
    assert "needs at least" not in refused.said
