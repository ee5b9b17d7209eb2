"""Publications that are killed, refused or read meanwhile: readers see one whole generation, the old or the new."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages import artifacts, generations, manifest
from stages.artifacts import Job
from stages.errors import ArtifactError

NAMES = ("train.parquet", "validation.parquet", "test.parquet")
PUBLISH = """
import sys
from pathlib import Path
from stages.artifacts import Job
names = ("train.parquet", "validation.parquet", "test.parquet")
def publish(run, mark):
    with Job(Path(run), "prepare", {"mark": mark}, writes=names) as job:
        for name in names:
            with job.open(name) as file:
                file.write(f"{name} {mark}".encode())
"""
strace = pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")


def published(run: Path, mark: str, before: str = "", *strace_with: str) -> "subprocess.CompletedProcess[str]":
    """Publish three files in a process of its own."""
    script = f"{PUBLISH}{before}\npublish(sys.argv[1], sys.argv[2])"
    command = [*strace_with, sys.executable, "-c", script, str(run), mark]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def injected(call: str, fault: str, when: int) -> tuple[str, ...]:
    return ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={when}")


def seen(run: Path) -> str:
    """Give the mark that all three files have for a reader."""
    with artifacts.reading(run, NAMES) as job:
        marks = {job.path(name).read_text().split()[1] for name in NAMES}
    assert len(marks) == 1, f"mixed: {marks}"
    return marks.pop()


def left(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()} - {*NAMES, "manifest.json", ".lock"}


@strace
@pytest.mark.parametrize("when", [1, 2, 3, 4])
def test_f12_killed_between_two_files_readers_see_the_previous_generation(tmp_path: Path, when: int) -> None:
    assert published(tmp_path, "old").returncode == 0
    assert published(tmp_path, "new", "", *injected("rename", "signal=SIGKILL", when)).returncode != 0
    assert seen(tmp_path) in (("old",) if when < 4 else ("old", "new"))
    assert (tmp_path / generations.FOLDER).exists(), "else nothing was killed half-way"
    assert published(tmp_path, "third").returncode == 0
    assert (seen(tmp_path), left(tmp_path)) == ("third", set())


@strace
@pytest.mark.parametrize("call", ["fsync", "rename", "link", "unlink"])
def test_f01_killed_at_any_call_of_a_publication_a_reader_sees_old_or_new(tmp_path: Path, call: str) -> None:
    assert published(tmp_path, "mark0").returncode == 0
    for when in range(1, 40):
        done = published(tmp_path, f"mark{when}", "", *injected(call, "signal=SIGKILL", when))
        assert seen(tmp_path) in {f"mark{n}" for n in range(when + 1)}
        if done.returncode == 0:
            break
    assert when > 1, "nothing was killed"
    assert published(tmp_path, "last").returncode == 0
    assert (seen(tmp_path), left(tmp_path)) == ("last", set())


def test_f15_who_reads_while_others_publish_sees_one_generation_every_time(tmp_path: Path) -> None:
    assert published(tmp_path, "0").returncode == 0
    loop = "for n in range(1, 100000): publish(sys.argv[1], str(n))"
    with subprocess.Popen([sys.executable, "-c", PUBLISH + loop, str(tmp_path)], stderr=subprocess.DEVNULL) as writer:
        try:
            until = time.monotonic() + 60
            while seen(tmp_path) == "0":
                assert time.monotonic() < until
            marks: list[int] = []
            while len(marks) < 300 or len(set(marks)) <= 10:  # on a busy machine more reads, until enough is published
                assert time.monotonic() < until
                marks.append(int(seen(tmp_path)))
            assert writer.poll() is None
        finally:
            writer.kill()
    assert marks == sorted(marks)


def test_f16_an_input_that_changes_during_the_run_publishes_nothing(tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log.csv"
    log.write_text("a,b\n")
    assert published(run, "old").returncode == 0
    before = (run / "manifest.json").read_bytes()

    def prepare() -> None:
        with Job(run, "prepare", {"mark": 2}, writes=NAMES, sources={"interactions": log}) as job:
            for name in NAMES:
                with job.open(name) as file:
                    file.write(b"new new")
            log.write_text("a,b\nc,d\n")

    with pytest.raises(ArtifactError, match=r"CHANGED: .*interactions") as refusal:
        prepare()
    assert refusal.value.code == 4
    assert (seen(run), left(run), (run / "manifest.json").read_bytes()) == ("old", set(), before)


def test_f44_what_stands_aside_is_never_followed_out_of_the_run_folder(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    outside.mkdir()
    (outside / "train.parquet").write_text("precious")
    assert published(run, "old").returncode == 0
    (run / generations.FOLDER).symlink_to(outside)
    assert published(run, "new").returncode == 0
    assert [path.name for path in outside.iterdir()] == ["train.parquet"]
    assert ((outside / "train.parquet").read_text(), seen(run), left(run)) == ("precious", "new", set())


def test_f44_a_pipe_that_stands_aside_is_not_waited_for(tmp_path: Path) -> None:
    assert published(tmp_path, "old").returncode == 0
    (tmp_path / generations.FOLDER).mkdir()
    os.mkfifo(tmp_path / generations.FOLDER / "train.parquet")
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


@strace
@pytest.mark.parametrize("when", [1, 3, 4, 6, 7, 9, 10])
def test_f06_a_disk_that_does_not_keep_what_it_took_leaves_the_previous_generation(tmp_path: Path, when: int) -> None:
    assert published(tmp_path, "old").returncode == 0
    done = published(tmp_path, "new", "", *injected("fsync", "error=EIO", when))
    assert "OSError: [Errno 5]" in done.stderr
    assert (seen(tmp_path), left(tmp_path)) == ("old", set())


def test_f13_f14_a_second_command_is_told_who_holds_the_lock_which_a_killed_one_gives_back(tmp_path: Path) -> None:
    hold = "import sys, time; from pathlib import Path; from stages import publish\n"
    hold += "lock = publish.lock(Path(sys.argv[1]))\n"
    hold += "print('ready', flush=True); time.sleep(60)"
    assert published(tmp_path, "old").returncode == 0
    command = [sys.executable, "-c", "from stages.cli import main; main()", "clean", "--run", str(tmp_path)]
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            refused = subprocess.run(command, capture_output=True, text=True, check=False)
        finally:
            holder.kill()
    assert (refused.returncode, f"in use by process {holder.pid} on " in refused.stderr) == (75, True)
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
