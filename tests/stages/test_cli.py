"""The command line as a script sees it: exit codes, one line on stderr, nothing but results on stdout."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages import cli, pipeline
from stages.run_folder.job import Job

from ..jobs import compute_popularity

TOOL = Path(sys.executable).with_name("ssl-recall")
HEAVY = ("torch", "polars", "pyarrow", "narwhals", "numpy", "safetensors", "ssl_recall.data.features")


def test_a_stage_that_is_done_exits_0_with_a_line_on_stderr_only(catalogue: Path) -> None:
    result = call("compute-popularity", "--run", str(catalogue))
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.startswith("compute-popularity         6 items, 3 never taken, 6 interactions  ")
    assert len(result.stderr.splitlines()) == 1
    again = call("compute-popularity", "--run", str(catalogue))
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "compute-popularity         up to date\n")


def test_help_loads_no_engine() -> None:
    """The help of every command is quick because torch, polars and pyarrow are imported inside the stages."""
    script = (
        "import sys\n"
        "from stages import cli, pipeline\n"
        "for arguments in ([], *([one.name] for one in pipeline.COMMANDS)):\n"
        "    try: cli.app([*arguments, '--help'])\n"
        "    except SystemExit as end: assert end.code == 0, end.code\n"
        f"print('LOADED', sorted(set({HEAVY}) & sys.modules.keys()))\n"
    )
    result = python(script)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "LOADED []"


def test_help_names_every_command_and_every_default() -> None:
    from stages import pipeline

    listed = call("--help").stdout
    for name in (one.name for one in pipeline.COMMANDS):
        assert f"\n  {name} " in listed
    text = call("compute-popularity", "--help").stdout
    for part in ("Reads train.parquet and items.parquet; writes popularity.parquet", "--unseen-count", "0.01", "--run"):
        assert part in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["compute-popularity", "--unseen-counts", "1"], "--unseen-count"),
        (["compute-popularity", "extra"], "extra"),
        (["compute-popularty"], "compute-popularity"),
        (["train", "--temperature", "nan"], "--temperature"),
    ],
)
def test_a_wrong_flag_is_exit_2_before_anything_is_made(tmp_path: Path, arguments: list[str], named: str) -> None:
    result = call(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert named in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flag",
    [
        "compute-popularity --unseen-count 0",
        "compute-popularity --unseen-count many",
        "compute-mi --shuffles 0",
        "compute-mi --id maybe",
        "build-views --transform cut",
        "build-views --value-dropout 1.1",
        "build-views --mask-rate nan",
        "build-views --variants 2.5",
        "train --temperature 0",
        "train --temperature -1",
        "train --ssl-temperature nan",
        "train --ssl-weight nan",
        "train --learning-rate nan",
        "train --seed -1",
    ],
)
def test_a_flag_out_of_its_bounds_is_exit_2(tmp_path: Path, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages import cli

    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, flag.split())
    assert result.exit_code == 2
    assert flag.split()[1] in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("rate =", "BAD_TOML: ssl-recall.toml: "),
        ("[train]\nbatch-size = 3", "[train] has no setting 'batch-size'; did you mean 'batch_size'?"),
        ("[train]\ntemprature = 3", "[train] has no setting 'temprature'; did you mean 'temperature'?"),
        ("[tarin]\nseed = 3", "[tarin] is no stage; did you mean 'train'?"),
        ("unseen_count = 3", "'unseen_count' stands outside a table"),
    ],
)
def test_a_wrong_settings_file_is_one_line_and_exit_2(tmp_path: Path, toml: str, message: str) -> None:
    (tmp_path / "ssl-recall.toml").write_text(toml)
    result = call("compute-popularity", "--run", "run", cwd=tmp_path)
    assert message in refusal(result, 2)
    assert not (tmp_path / "run").exists()


def test_the_settings_file_reaches_the_stage(catalogue: Path) -> None:
    settings = catalogue.parent / "ssl-recall.toml"
    settings.write_text(f"run = {json.dumps(str(catalogue))}\n[compute_popularity]\nunseen_count = 0.5")
    assert call("compute-popularity", cwd=catalogue.parent).returncode == 0
    manifest = json.loads((catalogue / "manifest.json").read_text())
    assert manifest["stages"]["compute-popularity"]["settings"] == {"unseen_count": 0.5}


def test_a_missing_artifact_is_exit_4_with_the_command_to_run(tmp_path: Path) -> None:
    line = refusal(call("compute-mi", "--run", "[red]runs/mine", cwd=tmp_path), 4)
    assert line == (
        "ssl-recall: MISSING: [red]runs/mine/items.parquet: missing; run: ssl-recall prepare --run '[red]runs/mine'"
    )


def test_a_damaged_artifact_is_exit_4_with_the_command_to_run(catalogue: Path) -> None:
    compute_popularity(catalogue)
    content = bytearray((catalogue / "train.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (catalogue / "train.parquet").write_bytes(content)
    before = digests(catalogue)
    line = refusal(call("compute-popularity", "--run", str(catalogue)), 4)
    assert "CORRUPT: " in line
    assert line.endswith(f"; run: ssl-recall prepare --run {catalogue}")
    assert digests(catalogue) == before


def test_a_manifest_of_a_later_version_is_exit_4_and_asks_for_an_upgrade(catalogue: Path) -> None:
    manifest = json.loads((catalogue / "manifest.json").read_text()) | {"schema": 99}
    (catalogue / "manifest.json").write_text(json.dumps(manifest))
    assert "schema 99, this version knows 2; upgrade ssl-recall" in refusal(
        call("compute-popularity", "--run", str(catalogue)), 4
    )


def test_a_locked_run_folder_is_exit_75_and_names_the_process(catalogue: Path) -> None:
    with Job(catalogue, "train", {}) as holder:
        holder.up_to_date = True  # it only holds the lock
        before = digests(catalogue)
        line = refusal(call("compute-popularity", "--run", str(catalogue)), 75)
        assert digests(catalogue) == before
    assert f"in use by process {os.getpid()} on " in line


def test_a_run_folder_that_cannot_be_made_is_exit_5(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert "FILE: " in refusal(call("compute-popularity", "--run", "x" * 300, cwd=tmp_path), 5)
    assert "RUN: " in refusal(call("compute-popularity", "--run", "file", cwd=tmp_path), 2)
    assert "RUN: " in refusal(call("compute-popularity", "--run", "", cwd=tmp_path), 2)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere")
def test_a_read_only_run_folder_is_exit_5_before_any_work(catalogue: Path) -> None:
    powerless = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.geteuid() == 0 else []
    before = digests(catalogue)
    catalogue.chmod(0o555)
    try:
        result = call("compute-popularity", "--run", str(catalogue), before=powerless)
    finally:
        catalogue.chmod(0o755)
    assert "Permission denied" in refusal(result, 5)
    assert digests(catalogue) == before


@pytest.mark.parametrize("limit", [100, 1000])
def test_a_full_disk_is_exit_5_and_the_earlier_file_stays(catalogue: Path, limit: int) -> None:
    compute_popularity(catalogue)
    before = digests(catalogue)

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    result = call("compute-popularity", "--run", str(catalogue), "--unseen-count", "0.5", preexec=no_room)
    refusal(result, 5, lines=2)  # the first is "runs again: .."
    assert digests(catalogue) == before


FAILURES = """
import errno, sys
from stages import cli
from stages.terminal import errors

@cli.app.command("fail")
def fail(kind: str) -> None:
    if kind == "bug":
        raise RuntimeError("first line\\nsecond line of [red]")
    if kind == "memory":
        raise MemoryError
    if kind == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "x.parquet")
    if kind == "sleep":
        import time
        print("ready", flush=True)
        time.sleep(60)
    raise getattr(errors, kind)("[bold]items.parquet[/]: wrong", "SOME_RULE")

if sys.argv[1:]:
    cli.main()
"""


def test_a_bug_is_exit_70_and_one_line_unless_debug() -> None:
    line = refusal(python(FAILURES, "fail", "bug"), 70)
    assert line.startswith("ssl-recall: BUG: RuntimeError: first line")
    assert line.endswith("; run again with --debug and report it")

    for arguments in (["--debug", "fail", "bug"], ["fail", "bug", "--debug"]):
        result = python(FAILURES, *arguments)
        assert result.returncode == 70
        assert "Traceback (most recent call last)" in result.stderr
        assert "second line of [red]" in result.stderr


def test_every_refusal_has_its_exit_code_its_rule_and_one_line() -> None:
    codes = {
        "SettingsError": 2,
        "InputError": 3,
        "ArtifactError": 4,
        "NumberError": 6,
        "LockedError": 75,
        "StageError": 70,
    }
    loop = (
        f"for kind in {list(codes)}:\n"
        "    sys.argv = ['ssl-recall', 'fail', kind]\n"
        "    try: cli.main()\n"
        "    except SystemExit as end: print(kind, end.code)\n"
    )
    result = python(FAILURES + loop)
    assert result.stdout.splitlines() == [f"{kind} {code}" for kind, code in codes.items()]
    assert result.stderr.splitlines() == ["ssl-recall: SOME_RULE: [bold]items.parquet[/]: wrong"] * len(codes)


def test_memory_and_disk_are_exit_5() -> None:
    assert refusal(python(FAILURES, "fail", "memory"), 5) == "ssl-recall: OUT_OF_MEMORY: out of memory"
    assert refusal(python(FAILURES, "fail", "full"), 5).startswith("ssl-recall: DISK_FULL: ")


def test_ctrl_c_is_exit_130_without_a_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FAILURES, "fail", "sleep"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors == "ssl-recall: stopped; this stage wrote nothing\n"


def refusal(result: "subprocess.CompletedProcess[str]", code: int, lines: int = 1) -> str:
    """Return the last line of a refusal; assert nothing on stdout and no traceback."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == lines, result.stderr
    return result.stderr.splitlines()[-1]


def test_the_short_flag_for_help_and_the_version() -> None:
    runner = CliRunner()
    listed = runner.invoke(cli.app, ["-h"]).stdout
    assert all(
        f"  {name} " in listed and line in listed for name, line in ((one.name, one.title) for one in pipeline.COMMANDS)
    )
    assert "..." not in listed.split("Commands:")[1]
    assert runner.invoke(cli.app, ["train", "-h"]).stdout == runner.invoke(cli.app, ["train", "--help"]).stdout
    assert runner.invoke(cli.app, ["--version"]).stdout == f"ssl-recall {version('ssl-recall')}\n"


def call(
    *arguments: str, cwd: Path | None = None, before: Sequence[str] = (), preexec: Callable[[], None] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*before, str(TOOL), *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, preexec_fn=preexec
    )


def python(script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    "text", ["[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", "CUDA out of memory"]
)
def test_memory_that_torch_does_not_get_is_exit_5(text: str) -> None:
    code, line = cli._outcome(RuntimeError(text))
    assert (code, line.partition(":")[0]) == (5, "OUT_OF_MEMORY")
    assert cli._outcome(RuntimeError("shapes do not match"))[0] == 70


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("[train]\nepochs = 0", [], "[train] epochs = 0: Input should be greater than or equal to 1"),
        ("[train]\ntemperature = 'hot'", [], '[train] temperature = "hot": Input should be'),
        ("[train]\nepochs = {a = 1}", [], '[train] epochs = {"a": 1}: Input should be'),
        ("[train]\nepochs = 2026-01-01", [], '[train] epochs = "2026-01-01": Input should be'),
        (f"[train]\nepochs = '{'x' * 99}'", [], f'[train] epochs = "{"x" * 39}..: Input should be'),
        ("[export-embeddings]\nthreads = 0", [], "[export-embeddings] threads = 0: Input should be"),
        ("[export_embeddings]\nthreads = 0", [], "[export_embeddings] threads = 0: Input should be"),
        ("run = 5", [], "run = 5: "),
        ("[train]\nepochs = 0", ["--epochs", "-1"], "Invalid value for '--epochs': Input should be"),
        ("", ["--epochs", "0"], "Invalid value for '--epochs': Input should be"),
    ],
)
@pytest.mark.parametrize("name", ["ssl-recall.toml", "a\nb.toml"])
def test_a_value_that_no_flag_takes_is_looked_for_where_it_stands(
    text: str, flags: list[str], said: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text + "\n")
    command = "export-embeddings" if "export" in text else "train"
    result = call(command, *([] if name == "ssl-recall.toml" else ["--config", name]), *flags)
    assert (result.returncode, result.stdout) == (2, "")
    place = "" if flags else name.replace("\n", "\\n") + ": "
    assert result.stderr.startswith(f"ssl-recall: USAGE: {place}{said}")
    assert result.stderr.endswith(f"; see: ssl-recall {command} --help\n")
    assert len(result.stderr.splitlines()) == 1


def test_an_argument_in_the_settings_file_is_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ssl-recall.toml").write_text("[show-views]\nitem = 'a'\n")
    result = call("show-views")
    assert result.returncode == 4, result.stderr  # nothing has been prepared, so it refuses that next
    assert "MISSING: " in result.stderr


def test_without_tables_and_without_a_settings_file_init_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = call("prepare").stderr
    assert "Missing option '--interactions'; there is no settings file here: ssl-recall init writes one; see: " in said
    (tmp_path / "ssl-recall.toml").write_text("[train]\nepochs = 1\n")
    assert "no settings file" not in call("prepare").stderr
