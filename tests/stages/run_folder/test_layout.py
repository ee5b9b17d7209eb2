"""docs/run-folder.md says the same as stages/run_folder/layout.py, and the stages keep to it."""

import ast
import importlib
import re
from pathlib import Path

import polars as pl
import pytest

from stages import pipeline
from stages.run_folder import layout
from stages.run_folder.layout import CONTRACT, NO_SSL, WRITER, command_for

from ...jobs import build_views, compute_mi, compute_popularity

ROOT = Path(__file__).parents[3]
README = (ROOT / "docs" / "run-folder.md").read_text(encoding="utf-8")
MODULES = {one.name: one.module for one in pipeline.COMMANDS}
COMMANDS = sorted({*WRITER.values(), *(reader for artifact in CONTRACT.values() for reader in artifact.readers)})
TYPES = {
    "string": pl.String,
    "int16": pl.Int16,
    "int32": pl.Int32,
    "int64": pl.Int64,
    "float32": pl.Float32,
    "float64": pl.Float64,
    "bool": pl.Boolean,
    "binary": pl.Binary,
}


def test_the_readme_names_every_file_and_no_other() -> None:
    assert list(sections()) == [
        *CONTRACT,
        "model/weights.safetensors",
        "model/model.json",
        "ablation.md",
        "manifest.json",
    ]


@pytest.mark.parametrize("name", CONTRACT)
def test_the_readme_gives_a_file_the_writer_and_the_readers_of_the_contract(name: str) -> None:
    words = re.search(r"^Written by `([a-z-]+)`\. Read by (.*)\.$", sections()[name], re.M)
    assert words is not None
    assert words[1] == CONTRACT[name].writer
    assert tuple(re.findall(r"`([a-z-]+)`", words[2])) == CONTRACT[name].readers


@pytest.mark.parametrize("name", CONTRACT)
def test_the_readme_gives_a_file_the_columns_and_types_of_the_contract_in_order(name: str) -> None:
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \| (.+?) \|$", sections()[name], re.M)
    assert [(column, kind) for column, kind, _ in rows] == list(CONTRACT[name].columns.items())
    assert all(meaning.strip() for _, _, meaning in rows)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stage_names_the_files_that_the_contract_says_it_reads_or_writes(command: str) -> None:
    module = importlib.import_module(f"stages.{MODULES[command]}")
    named = names(Path(str(module.__file__)))
    for constant in ("READS", "TRAINING_READS", "WRITES", "OPTIONAL"):
        named |= {name.removeprefix(NO_SSL) for name in getattr(module, constant, ())}
    assert named & CONTRACT.keys() == {n for n, file in CONTRACT.items() if command in (file.writer, *file.readers)}


def test_every_type_of_the_contract_is_one_that_the_readme_explains() -> None:
    kinds = {kind for artifact in CONTRACT.values() for kind in artifact.columns.values()}
    assert kinds == {*TYPES, "list<float64>", "id", "as came", "code", "fixed_size_list<float32>"}
    for kind in ("id", "as came", "code"):
        assert f"| {kind} |" in README


def test_the_middle_stages_write_the_columns_and_types_of_the_contract(catalogue: Path) -> None:
    compute_popularity(catalogue)
    compute_mi(catalogue)
    build_views(catalogue, variants=2)
    for name in ("popularity.parquet", "mutual_information.parquet", "views.parquet"):
        schema = pl.read_parquet_schema(catalogue / name)
        expected = {
            column: TYPES.get(kind, pl.String)  # the catalogue's ids are strings
            for column, kind in CONTRACT[name].columns.items()
        }
        assert list(schema.items()) == list(expected.items())


def test_every_writer_and_reader_is_a_command() -> None:
    assert set(COMMANDS) <= MODULES.keys()


def test_the_command_of_a_file_is_its_writer() -> None:
    assert command_for("train.parquet") == "ssl-recall prepare"
    assert command_for("model/model.json") == "ssl-recall train"
    assert command_for(f"{NO_SSL}model/model.json") == "ssl-recall train --no-ssl"
    assert command_for(f"{NO_SSL}item_embeddings.parquet") == "ssl-recall export-embeddings --no-ssl"
    with pytest.raises(KeyError):
        command_for("unknown.parquet")


def test_every_artifact_is_parquet_and_every_column_has_a_name() -> None:
    for name, artifact in CONTRACT.items():
        assert name.endswith(".parquet")
        assert artifact.writer not in artifact.readers
        assert all(re.fullmatch(r"[a-z0-9_]+|\[[a-z_]+\]|<feature>(__code)?", column) for column in artifact.columns)
    assert layout.WRITER.keys() - CONTRACT.keys() == {"model/weights.safetensors", "model/model.json", "ablation.md"}


def names(module: Path) -> set[str]:
    """Return the files that a module names as `layout.NAME`."""
    nodes = ast.walk(ast.parse(module.read_text(encoding="utf-8")))
    attributes = {
        n.attr
        for n in nodes
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "layout"
    }
    values = (getattr(layout, name) for name in attributes)
    return {value for value in values if isinstance(value, str)}


def sections() -> dict[str, str]:
    """Return the page's sections by the file that a heading names."""
    parts = re.split(r"^### `(.+?)`\n", README, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
