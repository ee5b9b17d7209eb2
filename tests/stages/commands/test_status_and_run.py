"""`run` runs the stale stages in order; `status` names them beforehand."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from stages.run_folder import manifest
from stages.run_folder.layout import CONTRACT, NO_SSL
from stages.terminal.errors import ArtifactError, InputError, SettingsError

STAGES = [
    "prepare",
    "compute-popularity",
    "compute-mi",
    "build-views",
    "train",
    "train --no-ssl",
    "export-embeddings",
    "export-embeddings --no-ssl",
    "train-seeds",
    "evaluate",
]
APART = {"show-views", "tune", "ablate"}  # they read the folder; `run` does not run them
FILES = {name: artifact for name, artifact in CONTRACT.items() if artifact.writer not in APART}
SETTINGS = """
[prepare]
interactions = "log.parquet"
items = "catalogue.parquet"

[build_views]
variants = 2

[train]
epochs = 1
batch_size = 64
ssl_batch_size = 16
ssl_weight = 0.3
embedding_width = 4
ssl_warmup_steps = 3
hidden = [8]
width = 4

[evaluate]
k = [5]
bootstrap = 10
"""
TYPES = {"string": pl.String, "bool": pl.Boolean, "binary": pl.Binary} | {
    name: getattr(pl, name.title()) for name in ("int16", "int32", "int64", "float32", "float64")
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make raw tables, settings, and a run folder in which everything is up to date."""
    folder = tmp_path_factory.mktemp("finished")
    draw = random.Random(1)
    items = [f"item {number:02}" for number in range(40)]
    pl.DataFrame(
        {
            "item_id": items,
            "colour": [draw.choice(["red", "blue", None]) for _ in items],
            "tags": [draw.sample("wxyz", draw.randrange(4)) for _ in items],
            "size": [draw.random() for _ in items],
        }
    ).write_parquet(folder / "catalogue.parquet")
    pairs = sorted({(f"user {draw.randrange(30)}", draw.choice(items[:30])) for _ in range(400)})
    pairs.append(("user 1", "of another shop"))
    pl.DataFrame(pairs, schema=["query_id", "item_id"], orient="row").write_parquet(folder / "log.parquet")
    (folder / "ssl-recall.toml").write_text(SETTINGS)
    here = Path.cwd()
    os.chdir(folder)
    try:
        result = call("run", "--run", "run")
    finally:
        os.chdir(here)
    assert result.exit_code == 0, (result.output, result.exception)
    (folder / "stderr").write_text(result.stderr)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the run folder to work in it."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_run_writes_every_file_of_the_contract_and_both_models(finished: Path) -> None:
    models = [f"{part}{name}" for part in ("", NO_SSL) for name in ("model/model.json", "model/weights.safetensors")]
    twice = ("training.parquet", "item_embeddings.parquet", "query_embeddings.parquet")
    found = {name for name in digests(finished / "run") if not name.startswith("seeds/")}
    assert sorted(found) == sorted([*FILES, *models, *(NO_SSL + name for name in twice), "manifest.json"])
    done = [line for line in (finished / "stderr").read_text().splitlines() if re.search(r"  \d+\.\d s$", line)]
    assert [line[:26].strip() for line in done] == STAGES


def test_every_file_has_the_columns_and_types_of_the_contract_in_order(finished: Path) -> None:
    for name, artifact in FILES.items():
        schema = pl.read_parquet_schema(finished / "run" / name)
        features = iter([column for column in schema if column.removesuffix("__code") not in artifact.columns])
        for column, kind in artifact.columns.items():
            if column.startswith(("[", "<")):
                continue
            found = schema[column]
            if kind == "fixed_size_list<float32>":
                assert found == pl.Array(pl.Float32, 4), (name, column)
            else:
                assert found == TYPES.get(kind, pl.String), (name, column)
        assert [column for column in schema if column in artifact.columns] == [
            column for column in artifact.columns if column in schema
        ]
        extra = list(features)
        assert not extra or any(column.startswith("<") for column in artifact.columns), (name, extra)
        for column in schema:
            if column.endswith("__code"):
                assert schema[column] in (pl.Int32, pl.List(pl.Int32))


def test_every_stage_reads_what_the_contract_says(finished: Path) -> None:
    stages = json.loads((finished / "run" / "manifest.json").read_text())["stages"]
    assert sorted(stages) == sorted(STAGES)
    for name, artifact in FILES.items():
        readers = {stage.split()[0] for stage in STAGES if {name, NO_SSL + name} & stages[stage]["inputs"].keys()}
        assert readers == set(artifact.readers) - APART, name


def test_rows_are_conserved_from_stage_to_stage(finished: Path) -> None:
    rows = {name: pl.read_parquet(finished / "run" / name).height for name in FILES}
    log = pl.read_parquet(finished / "log.parquet")
    parts = ("train.parquet", "validation.parquet", "test.parquet")
    assert sum(rows[name] for name in parts) + rows["quarantine.parquet"] == log.height
    assert rows["quarantine.parquet"] == 1
    assert rows["items.parquet"] == rows["popularity.parquet"] == rows["item_embeddings.parquet"] == 40
    assert rows["views.parquet"] == 80
    assert rows["queries.parquet"] == rows["query_embeddings.parquet"] == 30
    pairs = pl.concat([pl.read_parquet(finished / "run" / name, columns=["query_id", "item_id"]) for name in parts])
    assert pairs.sort(pl.all()).equals(log.filter(pl.col("item_id") != "of another shop").sort(pl.all()))


def test_a_second_run_does_nothing_and_says_so(folder: Path) -> None:
    before = tree(folder)
    result = call("run", "--run", "run")
    assert result.exit_code == 0
    *lines, last = result.stderr.splitlines()
    assert lines == [f"{stage:<26} up to date" for stage in STAGES]
    assert last.startswith(
        "run                        done; vectors: run/item_embeddings.parquet, run/query_embeddings"
    )
    assert "run/no-ssl/item_embeddings.parquet" in last
    assert tree(folder) == before


def test_forcing_a_run_writes_the_same_bytes(folder: Path) -> None:
    before, inode = digests(folder / "run"), (folder / "run" / "views.parquet").stat().st_ino
    assert call("run", "--run", "run", "--force").exit_code == 0
    assert (folder / "run" / "views.parquet").stat().st_ino != inode
    assert digests(folder / "run") == before


CHANGES = [
    ("bootstrap = 10", "bootstrap = 20", {"evaluate": "bootstrap was 10, now 20"}),
    (
        "variants = 2",
        "variants = 3",
        {
            "build-views": "variants was 2, now 3",
            "train": "after build-views",
            "export-embeddings": "after train",
            "train-seeds": "after train",
            "evaluate": "after export-embeddings",
        },
    ),
    (
        "ssl_weight = 0.3",
        "ssl_weight = 0.7",
        {
            "train": "ssl_weight was 0.3, now 0.7",
            "export-embeddings": "after train",
            "train-seeds": "after train",
            "evaluate": "after export-embeddings",
        },
    ),
    ("[train]", "[train]\nlogq = true", {}),  # the default, spelt out
]


@pytest.mark.parametrize(("old", "new", "stale"), CHANGES)
def test_status_names_what_a_setting_makes_stale_and_no_more(
    folder: Path, old: str, new: str, stale: dict[str, str]
) -> None:
    edit(folder / "ssl-recall.toml", old, new)
    before = tree(folder)
    assert dict(status()) == dict.fromkeys(STAGES) | stale
    assert tree(folder) == before


def test_run_does_what_status_says_and_then_all_is_up_to_date(folder: Path) -> None:
    edit(folder / "ssl-recall.toml", "bootstrap = 10", "bootstrap = 20")
    (folder / "run" / "mutual_information.parquet").unlink()
    before = tree(folder)
    assert {stage: reason for stage, reason in status() if reason} == {
        "compute-mi": "mutual_information.parquet is missing",
        "build-views": "after compute-mi",
        "train": "after build-views",
        "export-embeddings": "after train",
        "train-seeds": "after compute-mi",
        "evaluate": "bootstrap was 10, now 20",
    } | {"evaluate": "after export-embeddings"}
    result = call("run", "--run", "run")
    assert "compute-mi                 runs again: mutual_information.parquet is missing" in result.stderr
    assert "evaluate                   runs again: bootstrap was 10, now 20" in result.stderr
    assert [line[:26].strip() for line in result.stderr.splitlines() if line.endswith("up to date")] == [
        stage for stage in STAGES if stage not in {"compute-mi", "evaluate"}
    ]  # the matrix came out as it was, so nothing after it ran
    written = {name for name, what in tree(folder).items() if before.get(name) != what}
    assert written == {"run/mutual_information.parquet", "run/metrics.parquet", "run/manifest.json"}
    assert all(reason is None for _, reason in status())


def test_status_of_no_run_names_every_stage_and_makes_no_folder(folder: Path) -> None:
    before = tree(folder)
    assert status("elsewhere") == [
        ("prepare", "never run"),
        ("compute-popularity", "after prepare"),
        ("compute-mi", "after prepare"),
        ("build-views", "after prepare"),
        ("train", "after prepare"),
        ("train --no-ssl", "after prepare"),
        ("export-embeddings", "after prepare"),
        ("export-embeddings --no-ssl", "after prepare"),
        ("train-seeds", "after prepare"),
        ("evaluate", "after prepare"),
    ]
    assert tree(folder) == before
    assert not (folder / "elsewhere").exists()


def test_status_is_a_line_a_stage_for_people(folder: Path) -> None:
    edit(folder / "ssl-recall.toml", "bootstrap = 10", "bootstrap = 20")
    result = call("status", "--run", "run")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line[:30].strip() for line in lines] == STAGES
    assert [line[30:].strip() for line in lines] == ["up to date"] * 9 + ["to run: bootstrap was 10, now 20"]


def test_what_is_optional_is_named_where_it_was_run_with_what_it_was_given(folder: Path) -> None:
    settings = folder / "ssl-recall.toml"
    settings.write_text(settings.read_text() + "[ablate.arms.mine]\nssl_weight = 0.9\n")
    assert call("tune", "--run", "run", "--arm", "mine", "--trials", "1").exit_code == 0
    before = tree(folder)
    assert dict(status()) == dict.fromkeys([*STAGES, "tune"])
    assert tree(folder) == before
    flags = ("--arm", "mine", "--seeds", "1", "--k", "5", "--k", "3", "--no-tuned")
    assert call("ablate", "--run", "run", *flags).exit_code == 0
    assert dict(status()) == dict.fromkeys([*STAGES, "tune", "ablate"])
    rows = json.loads(call("status", "--run", "run", "--json").stdout)
    assert [row["stage"] for row in rows if row["optional"]] == ["tune", "ablate"]
    edit(settings, "ssl_weight = 0.9", "ssl_weight = 0.8")
    lines = call("status", "--run", "run").stdout.splitlines()[-2:]
    for line, name in zip(lines, ("tune", "ablate"), strict=True):
        assert line.startswith(f"{name} (optional)".ljust(30) + " stale: arm mine was {")
    edit(settings, "[prepare]", "[prepare]\nseed = 2")
    assert status()[-2:] == [("tune", "after prepare"), ("ablate", "after prepare")]
    edit(settings, "[ablate.arms.mine]\nssl_weight = 0.8\n", "")
    for name, (stage, reason) in zip(("tune", "ablate"), status()[-2:], strict=True):
        assert stage == name
        assert str(reason).startswith("UNKNOWN_ARM: --arm mine: is no arm; there are no-ssl, ")
    said = call("run", "--run", "run").stderr
    assert "tune" not in said
    assert "ablate" not in said


def test_a_manifest_that_is_none_is_said_of_every_stage_alone(folder: Path) -> None:
    (folder / "run" / "manifest.json").write_text("no")
    assert [stage for stage, reason in status() if reason] == STAGES


def test_a_damaged_artifact_is_reported_by_status_and_mended_by_run(folder: Path) -> None:
    before = digests(folder / "run")
    flip(folder / "run" / "popularity.parquet")
    assert dict(status())["compute-popularity"] == "popularity.parquet is not what was written"
    assert call("run", "--run", "run").exit_code == 0
    assert digests(folder / "run") == before


@pytest.mark.parametrize("command", [["train", "--force"], ["show-views", "item 01"]])
def test_views_of_an_older_version_without_neighbours_are_refused(folder: Path, command: list[str]) -> None:
    path, told = folder / "run" / "views.parquet", manifest.read(folder / "run")
    pl.read_parquet(path).drop("neighbour_index").write_parquet(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    told["stages"]["build-views"]["outputs"]["views.parquet"]["sha256"] = digest
    for stage in ("train", "train --no-ssl"):
        if "views.parquet" in told["stages"].get(stage, {"inputs": {}})["inputs"]:
            told["stages"][stage]["inputs"]["views.parquet"] = digest
    (folder / "run" / "manifest.json").write_bytes(manifest.sealed(told))
    result = call(*command, "--run", "run")
    assert isinstance(result.exception, ArtifactError), result.exception
    assert str(result.exception) == (
        "OLD: run/views.parquet: of an older version, without neighbour_index; "
        "run: ssl-recall build-views --force --run run"
    )
    assert call("build-views", "--force", "--run", "run").exit_code == 0
    assert call(*command, "--run", "run").exit_code == 0


def test_views_of_an_older_release_are_built_again(folder: Path) -> None:
    told = manifest.read(folder / "run")
    told["stages"]["build-views"]["version"] = "0.1.0"
    (folder / "run" / "manifest.json").write_bytes(manifest.sealed(told))
    assert str(dict(status())["build-views"]).startswith("version was 0.1.0, now ")
    assert dict(status())["train"] == "after build-views"


def test_new_interactions_run_everything_that_sees_them(folder: Path) -> None:
    pl.read_parquet(folder / "log.parquet").head(300).write_parquet(folder / "log.parquet")
    assert status()[0] == ("prepare", "log.parquet changed")
    assert call("run", "--run", "run").exit_code == 0
    assert all(reason is None for _, reason in status())
    assert pl.read_parquet(folder / "run" / "popularity.parquet")["count"].sum() < 300


def test_a_stage_called_alone_refuses_a_model_of_other_data(folder: Path) -> None:
    """After another split the test may hold interactions that the model was trained on."""
    edit(folder / "ssl-recall.toml", "[prepare]", "[prepare]\nseed = 2")
    for stage in ("prepare", "compute-popularity"):
        assert call(stage, "--run", "run").exit_code == 0
    result = call("evaluate", "--run", "run")
    assert isinstance(result.exception, ArtifactError), result.output
    assert "run: ssl-recall " in str(result.exception)


def test_without_the_baseline_the_model_without_ssl_is_left_out(folder: Path) -> None:
    result = call("status", "--run", "elsewhere", "--no-baseline", "--json")
    assert [row["stage"] for row in json.loads(result.stdout)] == [name for name in STAGES if "--no-ssl" not in name]
    assert call("run", "--run", "elsewhere", "--no-baseline").exit_code == 0
    assert not (folder / "elsewhere" / "no-ssl").exists()
    models = set(pl.read_parquet(folder / "elsewhere" / "metrics.parquet")["model"])
    assert {"most-popular", "ssl", "ssl - most-popular"} <= models
    assert not any("no-ssl" in model for model in models)


def test_a_stage_that_is_refused_stops_the_run_and_leaves_all_as_it_was(folder: Path) -> None:
    catalogue = pl.read_parquet(folder / "catalogue.parquet")
    pl.concat([catalogue, catalogue.head(1)]).write_parquet(folder / "catalogue.parquet")
    before = digests(folder)
    result = call("run", "--run", "run")
    assert isinstance(result.exception, InputError)
    assert "compute-popularity" not in result.output
    assert digests(folder) == before


@pytest.mark.parametrize("command", ["run", "status"])
@pytest.mark.parametrize("wrong", ["epoch = 1", "epochs = 0", "epochs = 'many'"])
def test_a_wrong_setting_of_any_stage_stops_before_the_first(folder: Path, command: str, wrong: str) -> None:
    edit(folder / "ssl-recall.toml", "epochs = 1", wrong)
    result = call(command, "--run", "elsewhere")
    assert result.exit_code == 2 or isinstance(result.exception, SettingsError)
    assert "epochs" in result.stderr + str(result.exception)
    assert not (folder / "elsewhere").exists()


def test_ctrl_c_stops_the_whole_run(folder: Path) -> None:
    (folder / "log.parquet").unlink()
    os.mkfifo(folder / "log.parquet")  # prepare waits for a writer that never comes
    before = digests(folder / "run")
    tool = Path(sys.executable).with_name("ssl-recall")
    process = subprocess.Popen([tool, "run", "--run", "run"], stderr=subprocess.PIPE, text=True)
    writer = when_read(folder / "log.parquet")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    os.close(writer)
    assert process.returncode == 130, errors
    assert "compute-popularity" not in errors
    assert "Traceback" not in errors
    assert digests(folder / "run") == before


def when_read(fifo: Path) -> int:
    """Wait until a process reads a fifo."""
    for _ in range(200):
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody yet
            time.sleep(0.05)
    raise TimeoutError(fifo)


def call(*arguments: str) -> Result:
    from stages import cli

    return CliRunner().invoke(cli.app, arguments)


def status(run: str = "run") -> list[tuple[str, str | None]]:
    result = call("status", "--run", run, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return [(row["stage"], row["stale"]) for row in json.loads(result.stdout)]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def tree(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Return every file's sha256, modification time and inode."""
    stats = {name: (folder / name).stat() for name in digests(folder)}
    return {name: (digest, stats[name].st_mtime_ns, stats[name].st_ino) for name, digest in digests(folder).items()}


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_raw_data_that_has_gone_is_named_by_status_and_refused_by_run(folder: Path) -> None:
    (folder / "log.parquet").rename(folder / "logs.parquet")
    result = call("status", "--run", "run")
    assert "to run: NO_FILE: --interactions log.parquet: no Parquet or CSV file there" in result.output
    result = call("run", "--run", "run")
    assert "did you mean logs.parquet?" in str(result.exception)


def test_run_trains_both_models_whatever_the_file_says_of_ssl(folder: Path) -> None:
    settings = folder / "ssl-recall.toml"
    settings.write_text(settings.read_text().replace("epochs = 1", "epochs = 1\nssl = false"))
    assert call("run", "--run", "run").exit_code == 0
    assert call("status", "--run", "run", "--json").output.count('"stale": null') == len(STAGES)


def test_a_command_in_a_message_names_the_settings_file(folder: Path) -> None:
    (folder / "ssl-recall.toml").rename(folder / "other.toml")
    (folder / "run" / "popularity.parquet").unlink()
    result = call("train", "--config", "other.toml", "--run", "run")
    assert str(result.exception).endswith("run: ssl-recall compute-popularity --config other.toml --run run")
    (folder / "run" / "manifest.json").unlink()
    result = call("train", "--config", "other.toml", "--run", "run")
    assert "is not in run/manifest.json, so nobody knows it; run: ssl-recall prepare --config" in str(result.exception)
