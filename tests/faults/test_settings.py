"""Hostile settings: refused with exit 2 and a rule, and nothing outside the run folder is written."""

from pathlib import Path

import polars as pl
import pytest
from polars.exceptions import PanicException

from .commands import call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder, two deep, with an item table and a log."""
    folder = tmp_path / "above" / "here"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    pl.DataFrame({"item_id": range(40)}).write_parquet("items.parquet")
    log = [(user, (user * 7 + n * 3) % 40) for user in range(30) for n in range(6)]
    pl.DataFrame(log, schema=["query_id", "item_id"], orient="row").write_parquet("log.parquet")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


TABLES = ["--interactions", "log.parquet", "--items", "items.parquet"]
PREPARE = "[prepare]\ninteractions = 'log.parquet'\nitems = 'items.parquet'\n"


@pytest.mark.parametrize(
    ("toml", "rule"),
    [
        (PREPARE + "sead = 1", "UNKNOWN_KEY: "),
        (PREPARE + "seed = true", "BAD_TYPE: ssl-recall.toml: [prepare] seed = true"),
        (PREPARE + "use_query_id = 1", "BAD_TYPE: ssl-recall.toml: [prepare] use_query_id = 1"),
        (PREPARE + "seed = 'many'", "USAGE: "),
        (PREPARE + "seed = 2.5", "USAGE: "),
        (PREPARE + "[train]\nepochs = true", "BAD_TYPE: ssl-recall.toml: [train] epochs = true"),
        (PREPARE + "[ablate.arms.mine]\nssl_weight = true", "BAD_TYPE: ssl-recall.toml: [ablate.arms.mine]"),
        (PREPARE + f"min_count = {10**30}", "BAD_TYPE: ssl-recall.toml: [prepare] min_count = 1000"),
        (PREPARE + f"min_count = {'9' * 5_000}", "BAD_TOML: "),
        (PREPARE + f"query_id = {'[' * 50_000}", "BAD_TOML: "),
        (PREPARE + "[build-views]\nvariants = 2\n[build_views]\nvariants = 3", "TWICE: "),
        ("run = '../a'\n" + PREPARE, "RUN: "),
        ("run = '..'\n" + PREPARE, "RUN: "),
        ("run = 'run/../../a'\n" + PREPARE, "RUN: "),
        ("run = '/'\n" + PREPARE, "RUN: "),
        ("run = true\n" + PREPARE, "RUN: "),
        (PREPARE + "run = '../a'", "RUN: "),
    ],
)
def test_f45_hostile_settings_are_exit_2_and_write_nothing(here: Path, toml: str, rule: str) -> None:
    (here / "ssl-recall.toml").write_text(toml)
    before = tree(here.parent.parent)
    code, said = call("prepare")
    assert code == 2, said
    assert said.startswith(f"ssl-recall: {rule}")
    assert "Traceback" not in said
    assert tree(here.parent.parent) == before


@pytest.mark.parametrize("run", ["/", "..", ".", "../full", "full", "items.parquet"])
def test_f45_a_run_folder_that_holds_what_is_not_ours_is_refused(here: Path, run: str) -> None:
    for folder in (here / "full", here.parent / "full"):
        folder.mkdir()
        (folder / "thesis.txt").write_text("mine")
    before = tree(here.parent.parent)
    root = sorted(path.name for path in Path("/").iterdir())
    code, said = call("prepare", *TABLES, "--run", run)
    assert code == 2, said
    assert said.startswith("ssl-recall: RUN: --run ")
    assert tree(here.parent.parent) == before
    assert sorted(path.name for path in Path("/").iterdir()) == root


def test_f45_a_run_folder_that_is_new_empty_or_ours_is_taken_wherever_it_lies(here: Path) -> None:
    (here / "empty").mkdir()
    for run in (here.parent / "x", Path("sub/dir"), Path("empty"), Path("../beside")):
        for _ in range(2):
            assert call("prepare", *TABLES, "--run", str(run), "--force")[0] == 0


def test_f45_a_linked_lock_and_a_linked_folder_are_not_written_through(here: Path) -> None:
    assert call("prepare", *TABLES, "--run", "run")[0] == 0
    outside = here / "outside"
    outside.mkdir()
    (here / "run" / "model").symlink_to(outside)
    code, said = call("compute-popularity", "--run", "run")
    assert (code, "model is a link to another folder" in said) == (2, True)
    (here / "run" / "model").unlink()
    (here / "run" / ".lock").unlink()
    (here / "run" / ".lock").symlink_to(outside / "lock")
    code, said = call("compute-popularity", "--run", "run")
    assert (code, "LOCK: " in said) == (2, True)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", ["tarin", "train --temperature 0", "train --epochs many", "prepare --items", "train extra", ""]
)
def test_f45_a_mistake_on_the_command_line_has_a_rule_and_exit_2(here: Path, arguments: str) -> None:
    before = tree(here)
    code, said = call(*arguments.split())
    assert code == 2
    assert said.startswith("ssl-recall: USAGE: ")
    assert len(said.splitlines()) == 1 or not arguments
    assert tree(here) == before


def test_f45_a_panic_of_the_engine_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A panic is no Exception: while reading a table it is exit 3, elsewhere 70."""

    def panic(*_: object, **__: object) -> None:
        raise PanicException("index out of bounds")

    with monkeypatch.context() as patch:
        patch.setattr(pl.LazyFrame, "collect", panic)
        code, said = call("prepare", *TABLES, "--run", "run")
        assert (code, said.count("\n")) == (3, 1)
        assert "UNREADABLE: " in said
    monkeypatch.setattr(pl.Series, "is_sorted", panic)
    code, said = call("prepare", *TABLES, "--run", "run")
    assert (code, said.count("\n")) == (70, 1)
    assert said.startswith("ssl-recall: BUG: PanicException: index out of bounds")
