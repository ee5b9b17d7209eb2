"""Stopped, killed, damaged or moved trainings: each resumes to the same bytes, or says why it cannot."""

import hashlib
import multiprocessing
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stages.cli import main
from stages.learning import hardware
from stages.learning.checkpoints import NAME, Keeper
from stages.learning.fit import Fit
from stages.run_folder import lock
from stages.run_folder.layout import CHECKPOINTS_FOLDER
from stages.terminal.errors import LockedError

from .commands import COMMAND, call
from .disks import PowerCut

KILLS = 50
EVERY = ["--checkpoint-seconds", "0"]
ENDS = ("model/weights.safetensors", "model/model.json", "training.parquet")


def ended(run: Path) -> list[str]:
    return [hashlib.sha256((run / name).read_bytes()).hexdigest() for name in ENDS]


def checkpoints(run: Path) -> list[Path]:
    return sorted(path for path in (run / CHECKPOINTS_FOLDER).glob("*") if NAME.fullmatch(path.name))


def waited(ready: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, f"not ready after {seconds} s"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def views(prepared_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shop with views, and with epochs of eight steps."""
    folder = tmp_path_factory.mktemp("resume") / "shop"
    shutil.copytree(prepared_shop, folder)
    settings = folder / "ssl-recall.toml"
    settings.write_text(
        settings.read_text().replace("batch_size = 32", "batch_size = 16").replace("epochs = 2", "epochs = 3")
    )
    assert subprocess.run([*COMMAND, "build-views"], cwd=folder, check=False, capture_output=True).returncode == 0
    return folder


@pytest.fixture(scope="module")
def expected(views: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the sha256 of the files of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole") / "shop"
    shutil.copytree(views, folder)
    assert subprocess.run([*COMMAND, "train"], cwd=folder, check=False, capture_output=True).returncode == 0
    assert not (folder / "run" / CHECKPOINTS_FOLDER).exists(), "a finished training needs none"
    return ended(folder / "run")


@pytest.fixture
def shop_run(views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shop"
    shutil.copytree(views, folder)
    monkeypatch.chdir(folder)
    return folder / "run"


@pytest.fixture(scope="module")
def _halfway(views: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halfway") / "shop"
    shutil.copytree(views, folder)
    with subprocess.Popen([*COMMAND, "train", *EVERY], cwd=folder, stderr=subprocess.PIPE) as process:
        waited(lambda: checkpoints(folder / "run") and int(checkpoints(folder / "run")[-1].name[:10]) > 5)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert len(checkpoints(folder / "run")) == 2
    return folder


@pytest.fixture
def halfway(_halfway: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run folder with two checkpoints of a stopped training."""
    folder = tmp_path / "halfway"
    shutil.copytree(_halfway, folder)
    monkeypatch.chdir(folder)
    return folder / "run"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_f19_f20_a_signal_ends_the_step_saves_and_names_the_command_that_goes_on(
    shop_run: Path, expected: list[str], number: signal.Signals, code: int
) -> None:
    with subprocess.Popen([*COMMAND, "train", *EVERY], stderr=subprocess.PIPE, text=True) as process:
        waited(lambda: checkpoints(shop_run))
        process.send_signal(number)
        said = process.communicate()[1]
    assert process.returncode == code
    assert "which is saved; to go on run: ssl-recall train" in said
    assert "Traceback" not in said
    assert not (shop_run / "model").exists()
    command = said.rsplit("to go on run: ssl-recall ", 1)[1].split()
    again = call(*command)
    assert again.returncode == 0, again.said
    assert "\ntrain                      goes on from" in f"\n{again.said}"
    assert ended(shop_run) == expected


def test_f19_the_command_that_goes_on_has_the_flags_that_were_typed(shop_run: Path) -> None:
    typed = ["train", "--temperature", "0.2", "--run", "run", "--force", *EVERY]
    with subprocess.Popen([*COMMAND, *typed], stderr=subprocess.PIPE, text=True) as process:
        waited(lambda: checkpoints(shop_run))
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    command = said.rsplit("to go on run: ssl-recall ", 1)[1].split()
    assert command == [part for part in typed if part != "--force"]
    again = call(*command)
    assert again.returncode == 0, again.said
    assert "goes on from" in again.said


SLOW = """
import time
from stages.cli import main
from stages.learning import checkpoints
from stages.terminal.errors import LockedError

after_step = checkpoints.Keeper.after_step

def slow(self, fit):
    after_step(self, fit)
    if fit.steps_taken == 5:
        print("a long step", flush=True)
        time.sleep(60)

checkpoints.Keeper.after_step = slow
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_f19_f20_a_second_signal_stops_at_once_and_the_last_checkpoint_is_whole(
    shop_run: Path, expected: list[str], number: signal.Signals, code: int
) -> None:
    command, pipe = [sys.executable, "-c", SLOW, "train", *EVERY], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "a long step\n"
        process.send_signal(number)
        time.sleep(0.5)  # two signals at once count as one
        process.send_signal(number)
        try:
            said = process.communicate(timeout=20)[1]
        finally:
            process.kill()
    assert process.returncode == code, said
    assert "stopped at once; the last checkpoint is of epoch 0, step 2; to go on run: ssl-recall train" in said
    again = call("train")
    assert again.returncode == 0
    assert "goes on from" in again.said
    assert ended(shop_run) == expected


def _train(said: Path, *flags: str) -> None:
    """Train in the current process; write its stderr to a file."""
    with said.open("w") as file:
        os.dup2(file.fileno(), 2)
    sys.argv = ["ssl-recall", "train", *flags]
    main()


@pytest.fixture(scope="module")
def ready() -> "multiprocessing.context.ForkServerContext":
    """Return a context whose processes start with the libraries imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["stages.cli", "stages.train", "ssl_recall.evaluation.validation", "safetensors.torch", "polars"]
    )
    return context


def test_f21_killed_at_any_of_50_moments_it_goes_on_and_ends_with_the_same_bytes(
    views: Path,
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ready: "multiprocessing.context.ForkServerContext",
) -> None:
    """The moments lie between the first checkpoint and the end, also inside saves; a kill after it does not count."""
    moments, killed, same = random.Random(1), 0, 0
    length = 0.0  # seconds from the first checkpoint to the end, measured on a training that is not killed
    for number in range(2 * KILLS):
        folder, said = tmp_path / str(number), tmp_path / "said"
        shutil.copytree(views, folder)
        monkeypatch.chdir(folder)
        process = ready.Process(target=_train, args=(said, *EVERY))
        process.start()
        waited(lambda run=folder / "run", child=process: checkpoints(run) or not child.is_alive())
        begun = time.monotonic()
        process.join(moments.uniform(0, length) if length else None)
        process.kill()
        process.join()
        length = length or time.monotonic() - begun
        if checkpoints(folder / "run") and not (folder / "run" / ENDS[0]).exists():
            killed += 1
            again = ready.Process(target=_train, args=(said,))
            again.start()
            again.join()
            assert again.exitcode == 0
            assert "goes on from" in said.read_text()
            assert not [*folder.rglob(".*.tmp")]
            same += ended(folder / "run") == expected
        shutil.rmtree(folder)
        if killed == KILLS:
            break
    assert (killed, same) == (KILLS, KILLS)


def flipped(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0.0, 0.01, 0.5, 0.999])
def test_f11_past_a_damaged_checkpoint_it_takes_the_one_before(
    halfway: Path, expected: list[str], place: float
) -> None:
    flipped(checkpoints(halfway)[-1], place)
    again = call("train")
    assert again.returncode == 0
    assert "not what was written" in again.said
    assert "taking the one before" in again.said
    assert ended(halfway) == expected


def test_f26_where_all_checkpoints_are_damaged_nothing_begins_anew_by_itself(
    halfway: Path, expected: list[str]
) -> None:
    for path in checkpoints(halfway):
        flipped(path, 0.7)
    again = call("train")
    assert again.returncode == 7
    assert "ALL_DAMAGED" in again.said
    assert "to begin anew, without it, run: ssl-recall train --force" in again.said
    assert len(checkpoints(halfway)) == 2
    assert call("train", "--force").returncode == 0
    assert ended(halfway) == expected
    assert not (halfway / CHECKPOINTS_FOLDER).exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--temperature", "0.2"], "temperature was 0.05, now 0.2"), (["--seed", "2"], "seed was 1, now 2")],
)
def test_f24_other_settings_are_refused_by_name_with_both_ways_out(
    halfway: Path, expected: list[str], flags: list[str], said: str
) -> None:
    before = [path.name for path in checkpoints(halfway)]
    again = call("train", *flags)
    assert again.returncode == 7
    assert said in again.said
    assert f"to begin anew, without it, run: ssl-recall train {' '.join(flags)} --force" in again.said
    assert [path.name for path in checkpoints(halfway)] == before
    on = again.said.split("to go on with it run: ssl-recall ")[1].split("; ")[0].split()
    assert on == ["train", flags[0], said.split()[2].rstrip(",")]
    finished = call(*on)
    assert finished.returncode == 0
    assert "goes on from" in finished.said
    assert ended(halfway) == expected


def test_f24_other_data_are_refused_by_the_files_that_differ(halfway: Path) -> None:
    log = halfway.parent / "log.parquet"
    import polars as pl

    pl.read_parquet(log).head(200).write_parquet(log)
    for command in ("prepare", "compute-popularity", "compute-mi", "build-views"):
        assert call(command).returncode == 0
    again = call("train")
    assert again.returncode == 7
    assert "train.parquet was" in again.said
    assert "to go on with it" not in again.said
    assert "popularity.parquet was" in again.said


def test_f25_another_number_of_threads_is_said_and_refused_where_asked_to(halfway: Path) -> None:
    refused = call("train", "--threads", "2", "--strict")
    assert refused.returncode == 7
    assert "threads was 1, now 2, so the end would not be bit-exact" in refused.said
    again = call("train", "--threads", "2")
    assert again.returncode == 0
    assert "threads was 1, now 2: the end is not bit-exact" in again.said


def rewritten(path: Path, told: Callable[[str], str]) -> None:
    """Change a checkpoint's metadata, and name the file by its new hash."""
    with safe_open(path, "pt") as file:
        text = file.metadata()["training"]
    tensors = load_file(path)
    path.unlink()
    save_file(tensors, path, {"training": told(text)})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.rename(path.with_name(f"{path.name[:10]}-{digest}.safetensors"))


def test_f25_another_torch_is_said(halfway: Path) -> None:
    import torch

    for path in checkpoints(halfway):
        rewritten(path, lambda text: text.replace(f'"torch": "{torch.__version__}"', '"torch": "2.0.0"'))
    assert "torch was 2.0.0, now" in call("train").said


@pytest.mark.parametrize(
    "told",
    [
        lambda text: "[" * 100_000,
        lambda text: "null",
        lambda text: "{}",
        lambda text: text.replace('"epoch": ', '"epoch": "../../etc/passwd", "x": ', 1),
        lambda text: text.replace('"state": {', '"state": [', 1),
    ],
    ids=["deep", "null", "empty", "a path for a number", "broken"],
)
def test_f44_a_hostile_checkpoint_is_refused_and_nothing_of_it_is_run(
    halfway: Path, told: Callable[[str], str]
) -> None:
    for path in checkpoints(halfway):
        rewritten(path, told)
    again = call("train")
    assert again.returncode == 7, again.said
    assert "Traceback" not in again.said


def test_f44_a_checkpoint_with_a_huge_header_or_a_pickle_is_refused(halfway: Path) -> None:
    import pickle

    huge, *others = checkpoints(halfway)
    for path, content in ((huge, (2**62).to_bytes(8, "little") + b"{}"), (others[0], pickle.dumps({"a": 1}))):
        path.unlink()
        path.with_name(f"{path.name[:10]}-{hashlib.sha256(content).hexdigest()}.safetensors").write_bytes(content)
    again = call("train")
    assert again.returncode == 7
    assert "Traceback" not in again.said


def test_f23_a_training_that_is_done_is_up_to_date(shop_run: Path, expected: list[str]) -> None:
    assert call("train", *EVERY).returncode == 0
    again = call("train")
    assert again.returncode == 0
    assert "up to date" in again.said
    assert ended(shop_run) == expected


def test_a_leftover_checkpoint_of_what_is_published_decides_nothing(
    shop_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leftover is of a published training in bf16; the next training is in float32, as its setting says."""
    kept: list[Path] = []
    save = Keeper.save

    def keep(self: Keeper, fit: "Fit") -> bool:
        whole = save(self, fit)
        kept[:] = [shutil.copy(path, tmp_path) for path in checkpoints(shop_run)]
        return whole

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "save", keep)
        assert call("train", "--precision", "bfloat16", *EVERY).returncode == 0
    (shop_run / CHECKPOINTS_FOLDER).mkdir()
    for path in kept:
        shutil.copy(path, shop_run / CHECKPOINTS_FOLDER)
    assert call("train").returncode == 0
    other = ended(shop_run)
    shutil.rmtree(shop_run / "model")
    assert call("train", "--force").returncode == 0
    assert ended(shop_run) == other


def stopped_after(steps: int) -> Callable[[Keeper, "Fit"], None]:
    def after_step(self: Keeper, fit: "Fit") -> None:
        if fit.steps_taken == steps:
            self.save(fit)
            raise KeyboardInterrupt

    return after_step


@pytest.mark.parametrize("takes", [True, False])
def test_the_precision_that_a_trial_decided_stays_that_of_the_training(
    shop_run: Path, monkeypatch: pytest.MonkeyPatch, takes: bool
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(hardware, "takes_bf16", lambda *_: takes)
        patch.setattr(Keeper, "after_step", stopped_after(5))
        assert call("train", "--precision", "auto").returncode == 130
    monkeypatch.setattr(hardware, "takes_bf16", lambda *_: not takes)
    again = call("train", "--precision", "auto")
    assert "goes on from" in again.said
    assert ("epochs in bf16" in again.said) == takes


@pytest.mark.parametrize(
    ("stopped", "typed"),
    [
        (["--hidden", "4", "--hidden", "8"], []),
        (["--hidden", "4"], ["--hidden", "16", "--hidden=8", "--width", "4"]),
        (["--no-logq", "--temperature", "0.07"], ["--logq", "--temperature=0.2"]),
        ([], ["--no-logq"]),
    ],
)
@pytest.mark.parametrize("command", ["train", "run"])
def test_the_command_that_is_named_goes_on_whatever_was_typed(
    shop_run: Path, monkeypatch: pytest.MonkeyPatch, stopped: list[str], typed: list[str], command: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "after_step", stopped_after(5))
        assert call("train", *stopped).returncode == 130
    if command == "run":
        settings = shop_run.parent / "ssl-recall.toml"
        settings.write_text(settings.read_text().replace("width = 8\nprec", "width = 4\nprec"))
    refused = call(command, *(typed if command == "train" else []))
    if command == "train" and not typed:
        typed = ["--seed", "2"]
        refused = call(command, *typed)
    assert refused.returncode == 7, refused.said
    on = shlex.split(refused.said.split("to go on with it run: ssl-recall ")[1].split("; ")[0])
    finished = call(*on)
    assert finished.returncode == 0, finished.said
    assert "goes on from" in finished.said


def test_checkpoints_go_while_the_folder_is_still_locked(shop_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[bool] = []

    def clear(self: Keeper) -> None:
        try:
            lock.acquire(shop_run).close()
        except LockedError:
            locked.append(True)

    monkeypatch.setattr(Keeper, "clear", clear)
    assert call("train").returncode == 0
    assert locked == [True]


def test_a_checkpoint_that_a_kill_left_beside_what_it_led_to_is_no_obstacle(halfway: Path, expected: list[str]) -> None:
    kept = halfway.parent / "kept"
    shutil.copytree(halfway / CHECKPOINTS_FOLDER, kept)
    assert call("train").returncode == 0
    shutil.copytree(kept, halfway / CHECKPOINTS_FOLDER)
    assert call("train", "--temperature", "0.2").returncode == 0
    assert not (halfway / CHECKPOINTS_FOLDER).exists()


def test_a_training_that_was_stopped_is_kept_and_spoken_of_while_another_model_is_up_to_date(shop_run: Path) -> None:
    assert call("train").returncode == 0
    with subprocess.Popen([*COMMAND, "train", "--seed", "2", *EVERY], stderr=subprocess.PIPE, text=True) as process:
        waited(lambda: checkpoints(shop_run))
        assert f"run: in use by process {process.pid} on " in call("status").said
        process.send_signal(signal.SIGINT)
        process.communicate()
    kept = checkpoints(shop_run)
    again = call("train")
    assert "up to date" in again.said
    assert f"keeps {len(kept)} checkpoint" in again.said
    assert checkpoints(shop_run) == kept
    call("prepare", "--seed", "9")
    call("compute-popularity")
    said = next(line for line in call("status").said.splitlines() if line.startswith("train "))
    assert f"(a training was stopped after step {int(kept[-1].name[:10])})" in said
    assert "in use" not in call("status").said


def test_the_model_without_ssl_has_checkpoints_of_its_own(shop_run: Path) -> None:
    with subprocess.Popen([*COMMAND, "train", "--no-ssl", *EVERY], stderr=subprocess.PIPE, text=True) as process:
        waited(lambda: checkpoints(shop_run / "no-ssl"))
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 130
    assert "to go on run: ssl-recall train --no-ssl" in said
    assert call("train", "--no-ssl").returncode == 0


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_f20_sigterm_inside_a_save_lets_it_be_whole(shop_run: Path, expected: list[str]) -> None:
    """The signal comes at the second fsync: that of the checkpoint's temporary file."""
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:signal=SIGTERM:when=2"]
    process = subprocess.run([*strace, *COMMAND, "train", *EVERY], capture_output=True, text=True, check=False)
    assert process.returncode == 143, process.stderr
    assert "which is saved" in process.stderr
    assert call("train").returncode == 0
    assert ended(shop_run) == expected
    assert not [*shop_run.rglob(".*.tmp")]


def test_f02_after_a_power_cut_a_checkpoint_that_was_saved_is_whole(
    shop_run: Path, expected: list[str], power_cut: PowerCut, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shop_run.parent, power_cut.disk / "shop")
    monkeypatch.chdir(power_cut.disk / "shop")
    os.sync()
    run = power_cut.disk / "shop" / "run"
    with subprocess.Popen([*COMMAND, "train", *EVERY], stderr=subprocess.PIPE, text=True) as process:
        waited(lambda: checkpoints(run))
        process.send_signal(signal.SIGTERM)
        said = process.communicate()[1]
    assert process.returncode == 143, said
    monkeypatch.undo()
    monkeypatch.chdir("/")
    power_cut()
    monkeypatch.chdir(run.parent)
    again = call("train")
    assert again.returncode == 0, again.said
    assert "goes on from" in again.said
    assert "not what was written" not in again.said
    assert ended(run) == expected
    monkeypatch.chdir("/")


@pytest.fixture
def small_disk(shop_run: Path, halfway: Path) -> Iterator[Path]:
    """Mount a folder with room for two and a half checkpoints."""
    room = 2.5 * checkpoints(halfway)[-1].stat().st_size
    folder = shop_run / CHECKPOINTS_FOLDER
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={int(room)}", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_f04_a_full_disk_names_the_last_good_step_and_with_room_it_goes_on(
    small_disk: Path, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_disk.parents[1])
    full = call("train", *EVERY)
    assert full.returncode == 5, full.said
    assert "DISK_FULL" in full.said
    assert "the last checkpoint is of the warm-up, step 2; to go on run: ssl-recall train" in full.said
    assert len(checkpoints(small_disk.parent)) == 2
    assert not [*small_disk.glob(".*")]
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    again = call("train")
    assert again.returncode == 0, again.said
    assert "goes on from the warm-up, step 2" in again.said
    assert ended(small_disk.parent) == expected


def test_after_a_damaged_checkpoint_what_is_saved_next_is_kept(halfway: Path, expected: list[str]) -> None:
    """The damaged one is of a later step; if it stayed, it would count as the newest."""
    older, newest = checkpoints(halfway)
    shutil.copy(older, halfway.parent / "kept")
    flipped(newest, 0.5)
    with subprocess.Popen([*COMMAND, "train", *EVERY], stderr=subprocess.PIPE, text=True) as process:
        waited(lambda: newest not in checkpoints(halfway))
        process.send_signal(signal.SIGTERM)
        said = process.communicate()[1]
    assert process.returncode == 143, said
    again = call("train")
    assert again.returncode == 0
    assert "not what was written" not in again.said
    assert ended(halfway) == expected


def test_a_pipe_or_a_folder_named_like_a_checkpoint_is_not_waited_for(halfway: Path, expected: list[str]) -> None:
    os.mkfifo(halfway / CHECKPOINTS_FOLDER / f"{99:010d}-{'0' * 64}.safetensors")
    (halfway / CHECKPOINTS_FOLDER / f"{98:010d}-{'0' * 64}.safetensors").mkdir()
    assert call("train").returncode == 0
    assert ended(halfway) == expected


def test_clean_leaves_the_checkpoint_of_a_training_whose_model_is_no_longer_whole(halfway: Path) -> None:
    kept = halfway.parent / "kept"
    shutil.copytree(halfway / CHECKPOINTS_FOLDER, kept)
    assert call("train").returncode == 0
    shutil.copytree(kept, halfway / CHECKPOINTS_FOLDER)
    (halfway / "model" / "weights.safetensors").unlink()
    assert call("clean").returncode == 0
    assert len(checkpoints(halfway)) == 2
    assert call("train").returncode == 0
    assert not (halfway / CHECKPOINTS_FOLDER).exists()
