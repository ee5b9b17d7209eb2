"""Content and settings make a stage run again, never the time or the place of a file."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from stages import cli
from stages.compute_mi import InformationSettings
from stages.evaluate import EvaluateSettings
from stages.experiments.ablate import AblateSettings
from stages.experiments.tune import TuneSettings
from stages.export_embeddings import ExportSettings
from stages.learning.settings import TrainSettings
from stages.learning.view_settings import ViewSettings
from stages.options import from_values, recorded
from stages.run_folder import dry_run, manifest, source_files
from stages.run_folder.job import Job
from stages.user_tables.settings import PrepareSettings

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


def popularity(run: Path, frame: pl.DataFrame = POPULARITY, *, force: bool = False, **given: Any) -> Job:
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


def test_a_second_run_does_nothing_and_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(run)
    capsys.readouterr()
    assert popularity(run).up_to_date
    assert capsys.readouterr().err == "compute-popularity         up to date\n"
    assert tree(run) == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=6,
)


@settings(max_examples=25, deadline=None)
@given(given=st.dictionaries(st.text(min_size=1), JSON, max_size=4))
def test_any_settings_come_back_from_the_manifest_as_they_were(
    given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = tmp_path_factory.mktemp("run")
    prepare(run, **{"x": 1} | {f"_{name}": value for name, value in given.items()})
    assert prepare(run, **{"x": 1} | {f"_{name}": value for name, value in given.items()}).up_to_date
    assert not prepare(run, **{"x": 2} | {f"_{name}": value for name, value in given.items()}).up_to_date


def test_force_writes_again(run: Path) -> None:
    inode = (run / "popularity.parquet").stat().st_ino
    before = digests(run)
    assert not popularity(run, force=True).up_to_date
    assert (run / "popularity.parquet").stat().st_ino != inode
    assert digests(run) == before


def test_the_time_of_a_file_means_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_bytes(b"abc")
    prepare(tmp_path / "run", TRAIN, log)
    for path in (log, *(tmp_path / "run").iterdir()):
        os.utime(path, (1, 1))
    assert prepare(tmp_path / "run", TRAIN, log).up_to_date
    assert popularity(tmp_path / "run").inputs


@pytest.mark.parametrize("name", ["log.csv", "run/train.parquet"])
def test_an_edit_that_keeps_the_time_and_the_size_is_seen(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.csv"
    log.write_bytes(b"abc")
    prepare(tmp_path / "run", TRAIN, log)
    path = tmp_path / name
    then = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert path.stat().st_size == then.st_size
    assert not prepare(tmp_path / "run", TRAIN, log).up_to_date
    said = {
        "log.csv": f"runs again: {log} changed",
        "run/train.parquet": "runs again: train.parquet is not what was written",
    }
    assert said[name] in capsys.readouterr().err


def test_a_renamed_or_copied_run_folder_is_up_to_date(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    run.rename(tmp_path / "renamed")
    for folder in ("copy", "renamed"):
        assert prepare(tmp_path / folder).up_to_date
        assert popularity(tmp_path / folder).up_to_date


def test_a_renamed_input_of_the_same_content_is_up_to_date(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_bytes(b"abc")
    prepare(tmp_path / "run", TRAIN, tmp_path / "old.csv")
    (tmp_path / "old.csv").rename(tmp_path / "new.csv")
    assert prepare(tmp_path / "run", TRAIN, tmp_path / "new.csv").up_to_date


def test_a_changed_setting_is_named_with_what_it_was_and_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(run, seed=7, device="cpu")
    assert "runs again: device was not there, now cpu (seed changed, too)" in capsys.readouterr().err
    prepare(run, seed=8, device="cpu")
    assert "runs again: seed was 7, now 8\n" in capsys.readouterr().err
    prepare(run, seed=8, device=None)
    assert "runs again: device was cpu, now the default\n" in capsys.readouterr().err
    prepare(run, seed=8)
    assert "runs again: device" not in capsys.readouterr().err
    prepare(run, seed=8, device="cpu")
    assert "runs again: device was the default, now cpu\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run", "config", "force"])
def test_where_and_how_a_stage_was_called_is_no_setting(run: Path, name: str) -> None:
    for of in (PrepareSettings, InformationSettings, ViewSettings, TrainSettings, ExportSettings, EvaluateSettings):
        assert name not in of.__dataclass_fields__
    with Job(
        run, "prepare", {"seed": 1}, writes=("train.parquet",), **{name: run / "other"} if name == "config" else {}
    ) as job:
        assert job.up_to_date


@pytest.mark.parametrize(
    ("of", "names"),
    [
        (PrepareSettings, {"max_value_bytes", "max_list_length", "max_distinct"}),
        (InformationSettings, {"threads", "buckets"}),
        (ViewSettings, set()),
        (TrainSettings, {"checkpoint_seconds", "strict"}),
        (ExportSettings, {"items", "output"}),
        (EvaluateSettings, {"as_json"}),
        (TuneSettings, {"jobs"}),
        (AblateSettings, {"jobs"}),
    ],
)
def test_a_setting_that_changes_no_output_is_not_recorded(of: Any, names: set[str]) -> None:
    assert of.__dataclass_fields__.keys() - recorded(of()).keys() == names


@pytest.mark.parametrize(
    ("of", "name", "default"), [(TrainSettings, "hidden", [256]), (EvaluateSettings, "k", [10, 50, 100])]
)
def test_an_empty_list_of_the_settings_file_is_the_default(of: Any, name: str, default: list[int]) -> None:
    assert getattr(from_values(of, {name: []}), name) == default
    assert getattr(from_values(of, {name: [7]}), name) == [7]


def test_the_recorded_settings_are_those_of_version_0_2_0(shop: Path) -> None:
    """Another key or value would make every run folder of that version stale; `evaluate` has new ones anyway."""
    expected = json.loads(Path(__file__).with_name("recorded-0.2.0.json").read_text())
    made = CliRunner().invoke(cli.app, ["run"])
    assert made.exit_code == 0, made.output
    stages = json.loads((shop / "run" / "manifest.json").read_text())["stages"]
    new = stages.keys() - expected.keys() | {"evaluate"}
    assert {stage: entry["settings"] for stage, entry in stages.items() if stage not in new} == {
        stage: settings for stage, settings in expected.items() if stage != "evaluate"
    }
    assert new == {"evaluate", "train-seeds"}


def test_a_new_input_makes_the_stage_after_it_stale_but_the_same_bytes_do_not(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(run, seed=2)  # runs, and writes the same bytes
    assert popularity(run).up_to_date
    prepare(run, b"another log", seed=3)
    assert not popularity(run).up_to_date
    assert "runs again: train.parquet changed" in capsys.readouterr().err


def test_a_file_that_is_gone_is_written_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(run)
    (run / "popularity.parquet").unlink()
    popularity(run)
    assert "runs again: popularity.parquet is missing" in capsys.readouterr().err
    assert digests(run) == before


def test_an_optional_input_counts_from_when_it_is_there(run: Path) -> None:
    def evaluate() -> Job:
        with Job(
            run, "evaluate", {}, reads=("popularity.parquet",), optional=("views.parquet",), writes=("metrics.parquet",)
        ) as job:
            if not job.up_to_date:
                with job.open("metrics.parquet") as file:
                    file.write(b"with" if job.has("views.parquet") else b"without")
        return job

    evaluate()
    assert evaluate().up_to_date
    assert (run / "metrics.parquet").read_bytes() == b"without"
    publish(run, "build-views", "views.parquet")
    assert not evaluate().up_to_date
    assert (run / "metrics.parquet").read_bytes() == b"with"


def test_another_version_of_the_code_makes_a_stage_stale(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = manifest.read(run)
    told["stages"]["prepare"]["version"] = "0.0.1"
    (run / "manifest.json").write_bytes(manifest.sealed(told))
    assert not prepare(run).up_to_date
    assert f"version was 0.0.1, now {version('ssl-recall')}" in capsys.readouterr().err


# planning


def test_planning_says_what_would_run_and_why(run: Path) -> None:
    with dry_run.planning() as plan:
        prepare(run, seed=2)
        popularity(run)
        publish(run, "evaluate", "metrics.parquet", reads=("popularity.parquet",))
    assert plan.stages == [
        ("prepare", "seed was 1, now 2"),
        ("compute-popularity", "after prepare"),
        ("evaluate", "after compute-popularity"),
    ]
    with dry_run.planning() as plan:
        prepare(run)
        popularity(run)
        publish(run, "evaluate", "metrics.parquet", reads=("popularity.parquet",))
    assert plan.stages == [("prepare", None), ("compute-popularity", None), ("evaluate", "never run")]


def test_planning_writes_nothing_and_makes_no_folder(run: Path, tmp_path: Path) -> None:
    (run / "train.parquet").write_bytes(b"damaged")
    before = tree(tmp_path)
    with dry_run.planning() as plan:
        assert prepare(run, seed=2).up_to_date
        assert popularity(run).up_to_date
        assert prepare(tmp_path / "elsewhere").up_to_date
        assert popularity(tmp_path / "elsewhere").up_to_date
    assert len(plan.stages) == 4
    assert tree(tmp_path) == before


def test_planning_reports_a_damaged_input(run: Path) -> None:
    (run / "train.parquet").write_bytes(b"damaged")
    with dry_run.planning() as plan:
        popularity(run)
    ((stage, reason),) = plan.stages
    assert stage == "compute-popularity"
    assert reason is not None
    assert "train.parquet: not what its stage wrote" in reason


def test_planning_needs_no_lock(run: Path) -> None:
    with Job(run, "train", {}, writes=("training.parquet",)) as holder, dry_run.planning() as plan:
        holder.up_to_date = True  # it publishes nothing
        prepare(run)
    assert plan.stages == [("prepare", None)]


def test_after_a_plan_a_stage_works_again(run: Path) -> None:
    with pytest.raises(ZeroDivisionError), dry_run.planning():
        raise ZeroDivisionError
    assert not prepare(run, seed=2).up_to_date


# the user's own files


def test_a_path_is_a_file_a_folder_or_a_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.parquet", "a.csv", "sub/c.parquet", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    def found(path: Path | str) -> list[str]:
        return [str(file) for file in source_files.files_of(Path(path))]

    monkeypatch.chdir(tmp_path)
    assert found("b.parquet") == ["b.parquet"]
    assert found(tmp_path / "*.parquet") == [str(tmp_path / "b.parquet")]
    assert found("*.parquet") == ["b.parquet"]
    assert found("**/*.parquet") == ["b.parquet", "sub/c.parquet"]
    assert found(tmp_path) == [str(tmp_path / name) for name in ("a.csv", "b.parquet", "sub/c.parquet")]
    assert found("gone.parquet") == []
    (tmp_path / "[a].csv").write_bytes(b"x")  # a file of that name is no pattern
    assert found("[a].csv") == ["[a].csv"]


def publish(run: Path, stage: str, name: str, reads: Sequence[str] = ()) -> None:
    with Job(run, stage, {}, reads=reads, writes=(name,)) as job:
        if not job.up_to_date:
            with job.open(name) as file:
                file.write(b"x")


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
