"""Hostile run folders: links, pipes, foreign folders, and manifests that name foreign files."""

import errno
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.run_folder import layout, lock, manifest, reader
from stages.terminal.errors import ArtifactError

from .commands import call, content

RECORD = manifest.record
NAMES = ("train.parquet", "validation.parquet", "test.parquet")
PUBLISH = """
import sys
from pathlib import Path
from stages.run_folder.job import Job
names = ("train.parquet", "validation.parquet", "test.parquet")
def publish(run, mark):
    with Job(Path(run), "prepare", {"mark": mark}, writes=names) as job:
        for name in names:
            with job.open(name) as file:
                file.write(f"{name} {mark}".encode())
"""


def published(run: Path, mark: str) -> "subprocess.CompletedProcess[str]":
    """Publish three files in another process."""
    command = [sys.executable, "-c", f"{PUBLISH}\npublish(sys.argv[1], sys.argv[2])", str(run), mark]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def seen(run: Path) -> str:
    """Return the mark that all three files have for a reader."""
    with reader.reading(run, NAMES) as job:
        marks = {job.path(name).read_text().split()[1] for name in NAMES}
    assert len(marks) == 1, f"mixed: {marks}"
    return marks.pop()


def left(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()} - {*NAMES, "manifest.json", ".lock"}


def test_f44_what_stands_aside_is_never_followed_out_of_the_run_folder(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    outside.mkdir()
    (outside / "train.parquet").write_text("precious")
    assert published(run, "old").returncode == 0
    (run / layout.PREVIOUS).symlink_to(outside)
    assert published(run, "new").returncode == 0
    assert [path.name for path in outside.iterdir()] == ["train.parquet"]
    assert ((outside / "train.parquet").read_text(), seen(run), left(run)) == ("precious", "new", set())


def test_f44_a_pipe_that_stands_aside_is_not_waited_for(tmp_path: Path) -> None:
    assert published(tmp_path, "old").returncode == 0
    (tmp_path / layout.PREVIOUS).mkdir()
    os.mkfifo(tmp_path / layout.PREVIOUS / "train.parquet")
    script = f"{PUBLISH}\npublish(sys.argv[1], 'new')"
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=30, check=True, capture_output=True)
    assert left(tmp_path) == set()


def test_f44_a_folder_that_is_no_run_folder_is_not_swept(tmp_path: Path) -> None:
    theirs = tmp_path / ".theirs.1.tmp"
    theirs.write_text("precious")
    assert published(tmp_path, "first").returncode == 0
    assert theirs.read_text() == "precious"


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "model/../../x"])
def test_f44_a_manifest_that_names_files_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    assert published(tmp_path, "old").returncode == 0
    told = json.loads((tmp_path / "manifest.json").read_text())
    told["stages"]["prepare"]["outputs"][name] = {"sha256": "0" * 64, "size": 1}
    (tmp_path / "manifest.json").write_bytes(manifest.sealed(told))
    with pytest.raises(ArtifactError, match="BAD_MANIFEST"):
        seen(tmp_path)


def sealed(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest, and seal it again."""
    told = manifest.read(run)
    change(told)
    (run / layout.MANIFEST).write_bytes(manifest.sealed(told))


def test_f44_artifacts_that_were_made_from_each_other_are_followed_once(shop_run: Path) -> None:
    def circle(told: dict[str, Any]) -> None:
        counted = told["stages"]["compute-popularity"]["outputs"]["popularity.parquet"]
        told["stages"]["prepare"]["inputs"]["popularity.parquet"] = counted["sha256"]

    sealed(shop_run, circle)
    assert call("compute-mi", "--force").returncode in (0, 4)
    assert "Traceback" not in call("status", "--run", "run").said


def test_f44_a_manifest_of_a_hundred_thousand_brackets_is_exit_4(shop_run: Path) -> None:
    (shop_run / layout.MANIFEST).write_bytes(b"[" * 100_000)
    refused = call("compute-popularity")
    assert refused.returncode == 4
    assert "BAD_MANIFEST" in refused.said


@pytest.mark.parametrize("release", ["9.9.9", "99", "0.2.1+later"])
def test_f18_what_a_later_version_wrote_asks_for_an_upgrade(shop_run: Path, release: str) -> None:
    sealed(shop_run, lambda told: told["stages"]["prepare"].update(version=release))
    before = content(shop_run)
    for command in (["compute-popularity"], ["prepare", "--force"], ["run"]):
        refused = call(*command)
        assert refused.returncode == 4, refused.said
        assert f"NEWER: run/manifest.json: prepare was run by version {release}" in refused.said
        assert "upgrade ssl-recall" in refused.said
    assert content(shop_run) == before


def test_f18_what_an_older_schema_tells_is_stale_and_is_made_again(shop_run: Path) -> None:
    sealed(shop_run, lambda told: told.update(schema=1))
    refused = call("compute-popularity")
    assert refused.returncode == 4
    assert "STALE: run/train.parquet: schema was 1, now 2; run: ssl-recall prepare" in refused.said
    assert "to run: schema was 1, now 2" in call("status").said
    again = call("prepare")
    assert again.returncode == 0
    assert "runs again: schema was 1, now 2" in again.said
    assert call("compute-popularity").returncode == 0


def test_f18_a_setting_that_changes_is_named(shop_run: Path) -> None:
    assert "runs again: unseen_count was 0.01, now 0.5" in call("compute-popularity", "--unseen-count", "0.5").said


def test_f17_content_counts_and_neither_time_nor_place(shop_run: Path) -> None:
    log = shop_run.parent / "log.parquet"
    times = log.stat()
    os.utime(log)
    assert "up to date" in call("prepare").said
    copy = shop_run.with_name("copy")
    shutil.copytree(shop_run, copy)
    shop_run.rename(shop_run.with_name("renamed"))
    for run in ("copy", "renamed"):
        assert "up to date" in call("prepare", "--run", run).said
    damaged = bytearray(log.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    log.write_bytes(damaged)
    os.utime(log, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "to run: log.parquet changed" in call("status", "--run", "copy").said


def test_a_file_or_a_pipe_in_the_place_of_what_stands_aside_goes(shop_run: Path) -> None:
    (shop_run / layout.PREVIOUS).write_text("no folder")
    assert call("compute-popularity", "--force").returncode == 0
    os.mkfifo(shop_run / layout.PREVIOUS)
    assert call("compute-popularity", "--force").returncode == 0
    assert not (shop_run / layout.PREVIOUS).exists()


def test_where_there_are_no_hard_links_what_stands_aside_is_a_copy(
    shop_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(shop_run)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", fail)
        patch.setattr(manifest, "record", fail)
        assert call("compute-popularity", "--unseen-count", "0.5").returncode == 5
    assert content(shop_run) == before


def test_killed_while_it_is_undone_a_publication_is_undone_by_the_next_command(
    shop_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest comes back first: the files that it names count, in place or in `.previous/`."""
    before, replace, done = content(shop_run), Path.replace, list[str]()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "a disk that fails")

    def once(self: Path, target: Path) -> Path:
        if layout.PREVIOUS in self.parts:
            if done:
                raise OSError(errno.EIO, "killed")
            done.append(self.name)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "record", lambda *given: (RECORD(*given), fail()))
        patch.setattr(Path, "replace", once)
        assert call("compute-popularity", "--unseen-count", "0.5").returncode == 5
    assert done == [layout.MANIFEST]
    assert "up to date" in call("compute-popularity").said
    assert content(shop_run) == before


def test_an_empty_folder_of_the_user_s_stays_where_a_stage_fails(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert call("compute-popularity", "--run", str(tmp_path / "mine")).returncode == 4
    assert (tmp_path / "mine").is_dir()
    assert call("compute-popularity", "--run", str(tmp_path / "other")).returncode == 4
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("command", ["status", "compute-popularity"])
def test_a_lock_that_is_a_pipe_or_of_no_text_is_no_bug(shop_run: Path, command: str) -> None:
    (shop_run / ".lock").unlink()
    os.mkfifo(shop_run / ".lock")
    said = call(command)
    assert said.returncode == (0 if command == "status" else 2), said.said
    (shop_run / ".lock").unlink()
    (shop_run / ".lock").write_bytes(b"\xff\xfe\x80")
    with (shop_run / ".lock").open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert call(command).returncode == (0 if command == "status" else 75)


def test_who_only_looks_keeps_nobody_from_the_lock(tmp_path: Path) -> None:
    lock.acquire(tmp_path).close()
    assert lock.holder(tmp_path) is None
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            lock.holder(tmp_path)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(300):
            lock.acquire(tmp_path).close()
    finally:
        stop.set()
        looking.join()
    with lock.acquire(tmp_path):
        assert lock.holder(tmp_path) == f"process {os.getpid()} on {socket.gethostname()}"
