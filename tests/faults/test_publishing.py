"""Kills, power cuts, refusals and readers during a publication: all previous files stay, or all new ones are there."""

import collections
import fcntl
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssl_recall import popularity
from stages.run_folder import atomic_files, layout, lock, reader
from stages.run_folder.job import Job
from stages.terminal.errors import ArtifactError, LockedError

from .commands import COMMAND, call, content
from .disks import PowerCut

NAMES = ("train.parquet", "validation.parquet", "test.parquet")
PUBLISH = """
import sys
from pathlib import Path
from stages.run_folder.job import Job

def publish(run, generation):
    names = ("train.parquet", "validation.parquet", "test.parquet")
    with Job(Path(run), "prepare", {"seed": generation}, writes=names) as job:
        if not job.up_to_date:
            for name in names:
                with job.open(name) as file:
                    file.write(b"%d of %s" % (generation, name.encode()) * 50)

run, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for generation in range(first, last):
    publish(run, generation)
"""
CALLS = ("rename", "link", "fsync", "unlink", "mkdir", "write", "rmdir", "ftruncate", "unlinkat", "flock")
strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


def publish(run: Path, first: int, last: int | None = None, before: tuple[str, ...] = ()) -> Any:
    """Publish generations of three files in another process, one job per generation."""
    program = [*before, sys.executable, "-c", PUBLISH, run, str(first), str(last or first + 1)]
    return subprocess.run(program, check=False, capture_output=True, text=True)


def generation(run: Path) -> set[str]:
    """Return the generations that a reader sees; assert that each file is whole."""
    with reader.reading(run, NAMES) as job:
        seen = {name: job.path(name).read_bytes() for name in NAMES}
    numbers = {text.split(b" ", 1)[0].decode() for text in seen.values()}
    for name, text in seen.items():
        assert text == b"%s of %s" % (text.split(b" ", 1)[0], name.encode()) * 50
    return numbers


def under_strace(log: Path, *inject: str, calls: tuple[str, ...] = CALLS) -> tuple[str, ...]:
    only = [flag for rule in inject for flag in ("-e", f"inject={rule}")]
    return ("strace", "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(calls)}", *only)


@strace
def test_f01_f12_killed_at_any_system_call_a_reader_sees_one_whole_generation(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    publish(whole, 1)
    publish(whole, 2, before=under_strace(tmp_path / "log"))
    made = collections.Counter(re.findall(r"^\d+\s+(\w+)\(", (tmp_path / "log").read_text(), re.MULTILINE))
    moments = [(name, number) for name, count in made.items() for number in range(1, count + 1)]
    assert {"rename", "link", "fsync"} <= made.keys()
    seen = collections.Counter()
    for number, (name, when) in enumerate(moments):
        run = tmp_path / str(number)
        publish(run, 1)
        killed = publish(run, 2, before=under_strace(tmp_path / "log", f"{name}:signal=KILL:when={when}"))
        assert killed.returncode != 0, (name, when)
        (found,) = generation(run)
        seen[found] += 1
        assert publish(run, 2).returncode == 0
        assert generation(run) == {"2"}
        assert not [*run.rglob(".*.tmp"), *run.glob(layout.PREVIOUS)], (name, when)
        shutil.rmtree(run)
    assert seen.keys() == {"1", "2"}
    assert seen["1"] > 10


@strace
def test_f06_whichever_sync_fails_nothing_is_published_and_it_is_not_tried_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    publish(tmp_path / "whole", 1)
    publish(tmp_path / "whole", 2, before=under_strace(log, calls=("fsync",)))
    moments = log.read_text().count("fsync(")
    assert moments == 3 + 4 + 3 + 2  # new files, previous files, folders of renames, manifest and its folder
    for when in range(1, moments + 1):
        run = tmp_path / str(when)
        publish(run, 1)
        failed = publish(run, 2, before=under_strace(log, f"fsync:error=EIO:when={when}", calls=(*CALLS, "close")))
        assert failed.returncode != 0
        assert "OSError: [Errno 5]" in failed.stderr
        file = re.search(r"fsync\((\d+)\)\s+= -1 EIO", log.read_text())
        assert file is not None
        after = log.read_text()[file.end() :]
        assert f"fsync({file[1]})" not in after.split(f"close({file[1]})")[0]
        assert generation(run) == {"1"}
        assert not [*run.rglob(".*.tmp"), *run.glob(layout.PREVIOUS)]
        assert publish(run, 2).returncode == 0
        assert generation(run) == {"2"}


@strace
def test_f06_through_the_command_line_it_is_exit_5(shop_run: Path, tmp_path: Path) -> None:
    before = content(shop_run)
    command = [*under_strace(tmp_path / "log", "fsync:error=EIO:when=1"), *COMMAND, "compute-popularity"]
    failed = subprocess.run([*command, "--unseen-count", "0.5"], check=False, capture_output=True, text=True)
    assert failed.returncode == 5
    assert "FILE: [Errno 5]" in failed.stderr
    assert content(shop_run) == before


def test_f15_reading_while_others_publish_sees_one_generation_each_time(tmp_path: Path) -> None:
    run = tmp_path / "run"
    publish(run, 1)
    program = [sys.executable, "-c", PUBLISH, run, "2", "1000000"]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until, reads, numbers = time.monotonic() + 4, 0, set()
            while time.monotonic() < until:
                (number,) = generation(run)
                numbers.add(number)
                reads += 1
            assert process.poll() is None
        finally:
            process.kill()
    assert reads > 100
    assert len(numbers) > 10


def limited(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_f03_a_file_that_cannot_grow_is_exit_5_and_the_previous_one_is_kept(shop_run: Path) -> None:
    before = content(shop_run)
    command = [*COMMAND, "compute-popularity", "--unseen-count", "0.5"]
    full = subprocess.run(command, check=False, capture_output=True, text=True, preexec_fn=limited(500))
    assert full.returncode == 5
    assert "FILE_TOO_LARGE" in full.stderr
    assert "Traceback" not in full.stderr
    assert content(shop_run) == before
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_f03_a_full_disk_is_exit_5_and_the_previous_file_is_kept(shop_run: Path, mounted: Callable[..., Path]) -> None:
    disk = mounted("disk", "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    shutil.copytree(shop_run, disk / "run")
    before = content(disk / "run")
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 4096))
    full = call("compute-popularity", "--unseen-count", "0.5", "--run", str(disk / "run"))
    assert full.returncode == 5, full.said
    assert "DISK_FULL" in full.said
    assert content(disk / "run") == before
    (disk / "filler").unlink()
    assert call("compute-popularity", "--unseen-count", "0.5", "--run", str(disk / "run")).returncode == 0


def test_f07_a_full_or_missing_tmpdir_is_not_needed(
    shop_run: Path, mounted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = mounted("tiny", "-t", "tmpfs", "-o", "size=4k", "tmpfs")
    for place in (str(tiny), "/nowhere/at/all"):
        monkeypatch.setenv("TMPDIR", place)
        assert call("compute-popularity", "--force").returncode == 0
    assert not [*tiny.iterdir()]


def test_f02_after_a_power_cut_a_command_that_had_ended_well_has_its_files(power_cut: PowerCut) -> None:
    for number in (1, 2):
        assert publish(power_cut.disk / "run", number).returncode == 0
    power_cut()
    assert generation(power_cut.disk / "run") == {"2"}


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_f08_a_read_only_folder_is_refused_before_any_work(shop_run: Path) -> None:
    (shop_run / "no-ssl").mkdir()
    before = content(shop_run)
    (shop_run / "no-ssl").chmod(0o555)
    plain = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"]
    command = [*plain, *COMMAND, "train", "--no-ssl", "--epochs", "1000", "--patience", "1000"]
    start = time.monotonic()
    refused = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 5, refused.stderr
    assert "Permission denied" in refused.stderr
    assert "epoch" not in refused.stderr, "it trained first"
    assert time.monotonic() - start < 30
    (shop_run / "no-ssl").chmod(0o755)
    assert content(shop_run) == before


def test_f13_f14_a_second_process_is_turned_away_at_once_and_a_dead_one_is_not_waited_for(shop_run: Path) -> None:
    hold = "import time; from pathlib import Path; from stages.run_folder import lock; l = lock.acquire(Path('run'))\n"
    program = [sys.executable, "-c", f"{hold}print('held', flush=True); time.sleep(10)"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        start = time.monotonic()
        refused = call("compute-popularity", "--force")
        assert time.monotonic() - start < 1
        assert refused.returncode == 75
        assert f"in use by process {holder.pid} on {socket.gethostname()}" in refused.said
        holder.kill()
    assert call("compute-popularity", "--force").returncode == 0


def test_f13_a_lock_that_its_holder_has_removed_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder removes the file between our open and our lock; the next process makes a new file."""
    flock, calls = fcntl.flock, []

    def late(file: Any, operation: int) -> None:
        if not calls:
            (tmp_path / layout.LOCK).unlink()
        calls.append(operation)
        flock(file, operation)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        held = lock.acquire(tmp_path)
    assert len(calls) == 2
    with held, pytest.raises(LockedError):
        lock.acquire(tmp_path)


def test_a_folder_in_the_place_of_an_output_is_said_before_any_work(
    shop_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shop_run / "popularity.parquet").unlink()
    (shop_run / "popularity.parquet").mkdir()
    monkeypatch.setattr(popularity, "log_popularity", lambda *_: pytest.fail("at work"))
    refused = call("compute-popularity")
    assert refused.returncode == 5
    assert "is a folder, where a file is to be written: 'run/popularity.parquet'" in refused.said


@strace
@pytest.mark.parametrize("mends", ["compute-popularity", "clean"])
def test_f12_an_output_that_is_a_link_is_put_back_with_its_content(shop_run: Path, tmp_path: Path, mends: str) -> None:
    """The second rename is the manifest's; after a kill there, the previous table counts."""
    place, kept = shop_run / "popularity.parquet", tmp_path / "elsewhere.parquet"
    before = place.read_bytes()
    place.rename(kept)
    place.symlink_to(kept)
    killed = [*under_strace(tmp_path / "log", "rename:signal=KILL:when=2"), *COMMAND]
    command = ["compute-popularity", "--unseen-count", "0.5"]
    assert subprocess.run([*killed, *command], check=False, capture_output=True).returncode != 0
    assert place.read_bytes() != before
    with reader.reading(shop_run, ["popularity.parquet"]) as job:
        assert job.path("popularity.parquet").read_bytes() == before
    assert call(mends).returncode == 0
    assert place.read_bytes() == before
    assert "up to date" in call("compute-popularity").said
    assert kept.read_bytes() == before


@pytest.mark.parametrize("change", ["append", "replace", "remove and make"])
def test_f16_a_table_that_changes_during_the_run_publishes_nothing(shop_run: Path, change: str) -> None:
    log, before = shop_run.parent / "log.parquet", content(shop_run)

    def prepare() -> None:
        sources = {"interactions": log}
        with Job(shop_run, "prepare", {"seed": 9}, writes=("train.parquet",), sources=sources) as job:
            with job.open("train.parquet") as file:
                file.write(b"of the table as it was")
            if change == "append":
                with log.open("ab") as table:
                    table.write(b"more")
                return
            if change == "remove and make":
                log.unlink()
            log.with_name("other").write_bytes(b"other")
            log.with_name("other").replace(log)

    with pytest.raises(ArtifactError, match=r"CHANGED: .*log\.parquet: changed while prepare was at work"):
        prepare()
    assert content(shop_run) == before


@pytest.mark.parametrize("settled", [10**18, -(10**18)])
def test_f16_an_artifact_that_changes_during_the_run_publishes_nothing(
    shop_run: Path, settled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage sees the change with and without a change time from its first hash."""
    monkeypatch.setattr(atomic_files, "SETTLED", settled)
    before = content(shop_run)

    def count() -> None:
        with Job(shop_run, "compute-popularity", {}, reads=("train.parquet",), writes=("popularity.parquet",)) as job:
            with job.open("popularity.parquet") as file:
                file.write(b"of the log as it was")
            with (shop_run / "train.parquet").open("rb+") as table:
                table.write(b"x")

    with pytest.raises(ArtifactError, match=r"CHANGED: train\.parquet: changed while compute-popularity was at work"):
        count()
    assert {name for name, digest in content(shop_run).items() if before[name] != digest} == {"train.parquet"}
