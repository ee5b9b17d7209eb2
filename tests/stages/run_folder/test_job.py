"""A job publishes every file whole, checks files when it reads them, and locks the run folder."""

import contextlib
import hashlib
import json
import mmap
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.run_folder import atomic_files, manifest
from stages.run_folder.job import Job
from stages.run_folder.reader import reading
from stages.terminal.errors import ArtifactError, LockedError, SettingsError, StageError

POPULARITY = pl.DataFrame({"item_id": ["a", "b"], "count": [3, 1], "p": [0.75, 0.25], "log_p": [-0.288, -1.386]})
TRAIN = b"who took what"


def prepare(run: Path, content: bytes = TRAIN, source: Path | None = None, **given: Any) -> Job:
    """Run a first stage, which writes one file from a table of the user."""
    sources = {"interactions": source} if source else {}
    with Job(run, "prepare", {"seed": 1} | given, writes=("train.parquet",), sources=sources) as job:
        if not job.up_to_date:
            with job.open("train.parquet") as file:
                file.write(content)
    return job


def popularity(run: Path, frame: pl.DataFrame | pl.LazyFrame = POPULARITY, *, force: bool = False, **given: Any) -> Job:
    """Run a second stage, which reads the file of the first."""
    reads, writes = ("train.parquet",), ("popularity.parquet",)
    with Job(run, "compute-popularity", given, reads=reads, writes=writes, force=force) as job:
        if not job.up_to_date:
            job.write("popularity.parquet", frame)
            job.done("2 items")
    return job


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder in which both stages are up to date."""
    folder = tmp_path / "run"
    prepare(folder)
    popularity(folder)
    return folder


def test_a_file_written_a_moment_ago_has_no_change_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, later = tmp_path / "file", time.time_ns() + 3 * 10**9
    path.write_bytes(b"a")
    with path.open("rb") as file:
        assert atomic_files.sha256_and_change_time(file.fileno())[1] is None
        monkeypatch.setattr(atomic_files.time, "time_ns", lambda: later)
        digest, changed = atomic_files.sha256_and_change_time(file.fileno())
        assert digest == hashlib.sha256(b"a").hexdigest()
        assert changed == path.stat().st_ctime_ns


def test_a_file_written_while_it_is_hashed_has_no_change_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, plain = tmp_path / "file", atomic_files.sha256
    path.write_bytes(b"a")
    time.sleep(0.02)
    monkeypatch.setattr(atomic_files, "SETTLED", -(10**18))

    def while_it_is_written(other: Path) -> str:
        found = plain(other)
        path.write_bytes(b"b")
        return found

    monkeypatch.setattr(atomic_files, "sha256", while_it_is_written)
    with path.open("rb") as file:
        assert atomic_files.sha256_and_change_time(file.fileno())[1] is None


@pytest.mark.parametrize("mapped", [False, True])
def test_a_write_of_the_same_size_is_seen_whatever_its_modification_time(
    tmp_path: Path, mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a write through a mapping that was written to before."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    monkeypatch.setattr(atomic_files, "SETTLED", -(10**18))
    with path.open("rb+") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[0] = memory[0]
        time.sleep(0.02)
        _, changed = atomic_files.sha256_and_change_time(file.fileno())
        assert changed is not None
        assert atomic_files.unchanged_since(file.fileno(), changed)
        assert not atomic_files.unchanged_since(file.fileno(), changed + 1)
        time.sleep(0.02)
        was = path.stat()
        if mapped and _in_memory(path):
            pytest.skip("on tmpfs a write through a mapping moves no change time")
        if mapped:
            memory[1] = ord("x")
        else:
            path.write_bytes(b"axc")
            os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
        assert not atomic_files.unchanged_since(file.fileno(), changed)


def _in_memory(path: Path) -> bool:
    """Tell whether a file lies on tmpfs."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    return max((m for m in mounts if path.is_relative_to(m[0])), key=lambda m: len(m[0]))[1] == "tmpfs"


def test_columns_come_in_parts_of_at_most_so_many_rows_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Job(tmp_path, "prepare", {}, writes=("train.parquet",)) as job, job.open("train.parquet") as file:
        pl.DataFrame({"item_index": range(10)}).write_parquet(file)
    second = threading.Event()
    with reading(tmp_path, ("train.parquet",)) as job:
        plain = job.parts

        def parts(*terms: Any) -> Iterator[pl.DataFrame]:
            for number, part in enumerate(plain(*terms)):
                if number:
                    second.set()
                yield part

        monkeypatch.setattr(job, "parts", parts)
        found = job.columns("train.parquet", "item_index", 4)
        first = next(found)
        assert second.wait(5)
        assert [first.tolist(), *(part.tolist() for part in found)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_of_a_list_that_changed_the_reason_names_what_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = [f"a column with a long name, number {n}=categorical" for n in range(5)]
    prepare(tmp_path, item_features=features)
    prepare(tmp_path, item_features=[*features[:3], "size=numeric", *features[4:]])
    prepare(tmp_path, item_features=[*features[:3], "size=exclude", *features[4:]])
    assert "runs again: item_features was ['size=numeric'], now ['size=exclude']" in capsys.readouterr().err


@pytest.mark.parametrize(("settled", "hashed"), [(10**18, 2), (-(10**18), 1)])
def test_an_input_is_hashed_again_only_where_its_change_time_tells_nothing(
    tmp_path: Path, settled: int, hashed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Job(tmp_path, "prepare", {}, writes=("train.parquet",)) as job, job.open("train.parquet") as file:
        file.write(b"a log")
    monkeypatch.setattr(atomic_files, "SETTLED", settled)
    plain, seen = atomic_files.sha256, []
    monkeypatch.setattr(atomic_files, "sha256", lambda path: (seen.append(path), plain(path))[1])
    with Job(tmp_path, "compute-popularity", {}, reads=("train.parquet",), writes=("popularity.parquet",)) as job:
        with job.open("popularity.parquet") as file:
            file.write(b"counts")
        log = job.path("train.parquet")
    assert seen.count(log) == hashed


def test_a_stage_publishes_its_file_and_names_what_it_came_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, log = tmp_path / "runs" / "first", tmp_path / "log.csv"
    log.write_bytes(b"abc")
    prepare(run, TRAIN, log, path=log)
    popularity(run, unseen_count=0.01)

    told = json.loads((run / "manifest.json").read_text())
    assert len(told.pop("sha256")) == 64
    assert told == {
        "schema": 2,
        "stages": {
            "prepare": {
                "version": version("ssl-recall"),
                "settings": {"seed": 1, "path": str(log)},
                "inputs": {"interactions[0]": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
                "outputs": {"train.parquet": {"sha256": hashlib.sha256(TRAIN).hexdigest(), "size": len(TRAIN)}},
                "tables": {"interactions": {"path": str(log), "files": [[str(log), 3, log.stat().st_mtime_ns]]}},
            },
            "compute-popularity": {
                "version": version("ssl-recall"),
                "settings": {"unseen_count": 0.01},
                "inputs": {"train.parquet": hashlib.sha256(TRAIN).hexdigest()},
                "outputs": {
                    "popularity.parquet": {
                        "sha256": digests(run)["popularity.parquet"],
                        "size": (run / "popularity.parquet").stat().st_size,
                    }
                },
            },
        },
    }
    assert pl.read_parquet(run / "popularity.parquet").equals(POPULARITY)
    assert digests(run).keys() == {"manifest.json", "train.parquet", "popularity.parquet", ".lock"}
    assert capsys.readouterr().err.splitlines()[-1].startswith("compute-popularity         2 items  0.")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_refused(run: Path, position: float, bit: int) -> None:
    path = run / "train.parquet"
    sound = path.read_bytes()
    flipped = bytearray(sound)
    flipped[int(position * len(sound))] ^= 1 << bit
    path.write_bytes(flipped)
    try:
        with pytest.raises(ArtifactError, match=r"train\.parquet: not what its stage wrote.* ssl-recall prepare --run"):
            popularity(run)
    finally:
        path.write_bytes(sound)


# published whole


@pytest.mark.parametrize("kind", [ValueError, OSError, SettingsError, KeyboardInterrupt, AssertionError])
@pytest.mark.parametrize("moment", ["before", "inside", "after"])
def test_an_exception_leaves_every_earlier_file_and_no_temporary(
    run: Path, kind: type[BaseException], moment: str
) -> None:
    before = tree(run)
    with pytest.raises(kind):
        fail(run, kind, moment)
    assert tree(run) == before
    assert popularity(run).up_to_date  # the lock is free


def test_an_exception_in_the_first_stage_leaves_an_empty_run_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path, ZeroDivisionError, "after")
    assert tree(tmp_path) == {}


def test_a_lazy_frame_that_fails_while_it_is_written_leaves_the_earlier_file(run: Path) -> None:
    def fail(frame: pl.DataFrame) -> pl.DataFrame:
        raise ZeroDivisionError(frame.height)

    before = tree(run)
    lazy = POPULARITY.lazy().map_batches(fail, schema=POPULARITY.schema)
    with pytest.raises((ZeroDivisionError, pl.exceptions.PolarsError)):
        popularity(run, lazy, unseen_count=0.5)
    assert tree(run) == before


def test_a_stage_that_forgets_a_file_publishes_none(run: Path) -> None:
    before = tree(run)
    with (
        pytest.raises(AssertionError, match=r"prepare wrote no \['test.parquet'\]"),
        Job(run, "prepare", {"seed": 2}, writes=("train.parquet", "test.parquet")) as job,
        job.open("train.parquet") as file,
    ):
        file.write(b"new")
    assert tree(run) == before


def test_an_open_file_stays_whole_while_its_successor_is_published(run: Path) -> None:
    with (run / "train.parquet").open("rb") as reader:
        prepare(run, b"another log", seed=2)
        assert reader.read() == TRAIN
    assert (run / "train.parquet").read_bytes() == b"another log"


def test_files_have_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    for umask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        run = tmp_path / oct(umask)
        before = os.umask(umask)
        try:
            prepare(run)
            popularity(run)
        finally:
            os.umask(before)
        assert {stat.S_IMODE(path.stat().st_mode) for path in run.iterdir()} == {mode}


def test_a_foreign_tmpdir_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/proc")
    prepare(tmp_path / "run")
    assert popularity(tmp_path / "run").stage == "compute-popularity"


def test_the_next_run_sweeps_what_a_killed_one_left(tmp_path: Path) -> None:
    prepare(tmp_path)
    before = digests(tmp_path).keys()
    process = at_work(tmp_path)
    process.kill()
    process.wait()
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"]  # else this test proves nothing
    prepare(tmp_path, seed=2)
    assert digests(tmp_path).keys() == before


def test_a_killed_run_leaves_every_published_file(run: Path) -> None:
    before = {name: digest for name, digest in digests(run).items() if name != ".lock"}
    process = at_work(run)
    process.send_signal(signal.SIGKILL)
    process.wait()
    after = {name: digest for name, digest in digests(run).items() if name != ".lock" and not name.endswith(".tmp")}
    assert after == before
    assert prepare(run).up_to_date


def test_replacing_writes_whole_or_not_at_all(tmp_path: Path) -> None:
    def replace(content: bytes, *, fails: bool = False) -> None:
        with atomic_files.replacing(tmp_path / "new" / "settings.toml") as file:
            file.write(content)
            if fails:
                raise ZeroDivisionError

    replace(b"first")
    with pytest.raises(ZeroDivisionError):
        replace(b"half of the sec", fails=True)
    assert digests(tmp_path) == {"new/settings.toml": hashlib.sha256(b"first").hexdigest()}
    replace(b"second")
    assert digests(tmp_path) == {"new/settings.toml": hashlib.sha256(b"second").hexdigest()}


# one at a time


def test_a_second_process_is_told_who_works_there_within_a_second(run: Path) -> None:
    with working(run) as process:
        before = digests(run)
        started = time.monotonic()
        with pytest.raises(LockedError) as refusal:
            prepare(run, seed=2)
        assert time.monotonic() - started < 1
        assert digests(run) == before
    assert str(refusal.value) == (
        f"LOCKED: {run}: in use by process {process.pid} on {socket.gethostname()}; wait for it or stop it"
    )
    assert refusal.value.code == 75


def test_the_lock_of_a_dead_process_does_not_matter(run: Path) -> None:
    with working(run):
        pass  # killed on the way out
    (run / ".lock").write_text("process 1 on elsewhere, a long line that the next one must not keep")
    prepare(run, seed=2)
    assert (run / ".lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}"


def test_other_run_folders_are_free(run: Path, tmp_path: Path) -> None:
    with working(run):
        assert not prepare(tmp_path / "other").up_to_date


def test_a_symlinked_lock_touches_nothing_outside_the_run_folder(run: Path, tmp_path: Path) -> None:
    precious = tmp_path / "thesis.tex"
    precious.write_text("years of work")
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(precious)
    with pytest.raises(StageError, match="lock"):
        prepare(run, seed=2)
    assert precious.read_text() == "years of work"


# checked when read


@pytest.mark.parametrize("damage", ["truncated", "emptied", "zeroed", "longer", "replaced"])
def test_a_damaged_input_is_refused_and_the_command_that_mends_it_does(run: Path, damage: str) -> None:
    path, before = run / "train.parquet", digests(run)
    content = {
        "truncated": TRAIN[:-1],
        "emptied": b"",
        "zeroed": bytes(len(TRAIN)),
        "longer": TRAIN + b"\0",
        "replaced": b"PAR1",
    }
    path.write_bytes(content[damage])
    with pytest.raises(
        ArtifactError, match=r"CORRUPT: .*train\.parquet: .*; run: ssl-recall prepare --run "
    ) as refusal:
        popularity(run)
    assert refusal.value.code == 4
    assert str(refusal.value).endswith(f"--run {run}")
    prepare(run)
    assert popularity(run).up_to_date
    assert digests(run) == before


def test_a_missing_input_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"MISSING: .*train\.parquet: missing; run: ssl-recall prepare --run "):
        popularity(tmp_path)


def test_a_missing_file_of_the_model_without_ssl_names_its_own_command(tmp_path: Path) -> None:
    reads = ("no-ssl/model/weights.safetensors",)
    with (
        pytest.raises(ArtifactError, match=r"run: ssl-recall train --no-ssl --run "),
        reading(tmp_path, reads),
    ):
        pass


def test_a_file_that_no_stage_wrote_is_no_input(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(TRAIN)
    with pytest.raises(ArtifactError, match=r"ssl-recall prepare"):
        popularity(tmp_path)


def test_a_refused_read_makes_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="missing"):
        popularity(tmp_path / "mistyped")
    assert not (tmp_path / "mistyped").exists()


def test_an_input_that_was_made_from_other_inputs_is_refused(run: Path) -> None:
    """Test pairs of today may be training pairs of yesterday's model, so the two must not meet."""
    prepare(run, b"another split", seed=2)
    with pytest.raises(ArtifactError, match=r"popularity\.parquet.*ssl-recall compute-popularity"):
        evaluate(run)


def test_reading_checks_too_and_writes_nothing(run: Path) -> None:
    before = tree(run)
    with reading(run, ["popularity.parquet"]) as job:
        assert job.read("popularity.parquet").equals(POPULARITY)
        assert job.read("popularity.parquet", ["p"]).columns == ["p"]
    assert tree(run) == before
    (run / "popularity.parquet").write_bytes(b"PAR1")
    with (
        pytest.raises(ArtifactError, match="ssl-recall compute-popularity"),
        reading(run, ["popularity.parquet"]),
    ):
        pass


# the manifest


def test_a_newer_manifest_asks_for_an_upgrade_and_stays(run: Path) -> None:
    newer = json.loads((run / "manifest.json").read_text()) | {"schema": 3}
    (run / "manifest.json").write_text(json.dumps(newer))
    before = tree(run)
    with pytest.raises(ArtifactError, match=r"manifest\.json: schema 3, this version knows 2; upgrade ssl-recall"):
        prepare(run, seed=2)
    assert tree(run) == before


GARBAGE = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b"null",
    b"{}",
    b'{"schema": 2}',
    b'{"schema": "one", "stages": {}}',
    b'{"schema": 2, "stages": []}',
    b'{"schema": Infinity, "stages": {}}',
    b'{"schema": 2, "stages": {"prepare": 3}}',
    b'{"schema": 2, "stages": {"prepare": {}}}',
    b'{"schema": 2, "stages": {"prepare": {"settings": [], "inputs": {}, "outputs": {}}}}',
    b'{"schema": 2, "stages": {"prepare": {"settings": {"seed": 1}, "inputs": {}, "outputs": {}}}}',
    b'{"schema": 2, "stages": {"prepare": {"settings": {"seed": 1}, "inputs": {}, "outputs": {"train.parquet": 1}}}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("content", GARBAGE, ids=lambda content: content[-60:].decode(errors="replace"))
def test_a_garbled_manifest_is_refused_and_nothing_is_written(run: Path, content: bytes) -> None:
    with contextlib.suppress(ValueError, AttributeError, RecursionError):  # a right sha256 does not make it a manifest
        content = manifest.sealed(json.loads(content))
    (run / "manifest.json").write_bytes(content)
    before = digests(run)
    for stage in (prepare, popularity):
        with pytest.raises(ArtifactError, match=r"manifest\.json: is not what was written; run: "):
            stage(run)
    assert digests(run) == before


def test_a_garbled_manifest_is_mended_by_the_command_that_is_named(run: Path) -> None:
    before = digests(run)
    (run / "manifest.json").write_bytes(b"{")
    with Job(run, "prepare", {"seed": 1}, writes=("train.parquet",), force=True) as job, job.open("train.parquet") as f:
        f.write(TRAIN)
    popularity(run, force=True)
    assert digests(run) == before


# tables


def test_a_table_is_held_to_the_contract(run: Path) -> None:
    before = tree(run)
    with pytest.raises(AssertionError, match=r"popularity\.parquet: lacks \['log_p'\]"):
        popularity(run, POPULARITY.drop("log_p"), unseen_count=1)
    with pytest.raises(AssertionError, match=r"popularity\.parquet: unnamed columns \['rank'\]"):
        popularity(run, POPULARITY.with_columns(rank=1), unseen_count=1)
    assert tree(run) == before


def test_a_stage_reads_and_writes_what_it_says_and_nothing_else(run: Path) -> None:
    with (
        pytest.raises(AssertionError, match=r"views\.parquet is not among the files that were asked for"),
        Job(run, "compute-popularity", {}, reads=("train.parquet",), writes=("popularity.parquet",)) as job,
    ):
        job.read("views.parquet")
    with (
        pytest.raises(AssertionError, match=r"compute-popularity does not say that it writes views\.parquet"),
        Job(run, "compute-popularity", {}, writes=("popularity.parquet",)) as job,
    ):
        job.open("views.parquet").__enter__()


def test_the_same_table_is_the_same_bytes_lazy_or_not_as_often_as_not(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"item_id": [f"i{n}" for n in range(5000)], "count": range(5000), "p": 1 / 5000, "log_p": [-8.5] * 5000}
    )
    written = []
    for number, table in enumerate((frame, frame, frame.lazy(), frame.lazy())):
        prepare(tmp_path / str(number))
        popularity(tmp_path / str(number), table)
        written.append(digests(tmp_path / str(number))["popularity.parquet"])
        assert pl.read_parquet(tmp_path / str(number) / "popularity.parquet").equals(frame)
    assert written[0] == written[1]
    assert written[2] == written[3]


def evaluate(run: Path) -> None:
    reads, writes = ("train.parquet", "popularity.parquet"), ("metrics.parquet",)
    with Job(run, "evaluate", {}, reads=reads, writes=writes) as job, job.open("metrics.parquet") as file:
        file.write(b"figures")


def fail(run: Path, kind: type[BaseException], moment: str) -> None:
    """Run a stage of two files that raises `kind`."""
    with Job(run, "prepare", {"seed": 2}, writes=("train.parquet", "test.parquet")) as job:
        if moment == "before":
            raise kind("planted")
        with job.open("train.parquet") as file:
            file.write(b"half of")
            if moment == "inside":
                raise kind("planted")
        with job.open("test.parquet") as file:
            file.write(b"new")
        raise kind("planted")


def tree(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Return every file's sha256, modification time and inode."""
    digest = digests(folder)
    return {
        name: (digest[name], (folder / name).stat().st_mtime_ns, (folder / name).stat().st_ino)
        for name in digest
        if not name.endswith(".lock")
    }


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def at_work(run: Path) -> "subprocess.Popen[str]":
    """Start another process that stops in the middle of writing train.parquet."""
    script = (
        "import sys, time; from pathlib import Path; from stages.run_folder.job import Job\n"
        "with Job(Path(sys.argv[1]), 'prepare', {'seed': 9}, writes=('train.parquet',)) as job, "
        "job.open('train.parquet') as file:\n"
        "    file.write(b'half of'); file.flush(); print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(run)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    return process


@contextmanager
def working(run: Path) -> Iterator["subprocess.Popen[str]"]:
    process = at_work(run)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_run_folder_that_is_a_file_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with (
        pytest.raises(SettingsError, match=r"RUN: --run .*/run: is a file; name a folder"),
        Job(tmp_path / "run", "x", {}),
    ):
        pass
    assert (tmp_path / "run").read_text() == "mine"
