"""The settings file: its values become a command's defaults, and a key that no flag has is refused."""

import json
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from stages import options
from stages.terminal import settings_file
from stages.terminal.errors import SettingsError

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command("compute-mi")
@options.command
def compute_mi(
    folder: options.RunFolder,
    shuffles: Annotated[int, typer.Option(min=1, max=99)] = 1,
    rate: Annotated[float, typer.Option(min=0.0)] = 0.5,
    corrected: bool = True,
    name: str = "none",
    kind: Annotated[list[str] | None, typer.Option()] = None,
    hidden: Annotated[list[int] | None, typer.Option()] = None,
) -> None:
    """Print the values of flags of every type."""
    values: dict[str, Any] = {"run": str(folder.run), "config": str(folder.config), "shuffles": shuffles, "rate": rate}
    print(json.dumps(values | {"corrected": corrected, "name": name, "kind": kind, "hidden": hidden}))


@app.command("train")
@options.command
def train(folder: options.RunFolder) -> None:
    print(json.dumps({"run": str(folder.run), "config": str(folder.config)}))


@app.command("run")
@options.command
def run(folder: options.RunFolder, baseline: bool = True) -> None:
    print(json.dumps({"run": str(folder.run), "config": str(folder.config), "baseline": baseline}))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder; ssl-recall.toml in it is the settings file."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_file_gives_the_defaults_and_flags_win(folder: Path) -> None:
    (folder / "ssl-recall.toml").write_text(
        """
        run = "runs/mine"

        [compute_mi]
        shuffles = 3
        rate = 0.25
        corrected = false
        name = "[red]"
        hidden = [512, 256]

        [compute_mi.kind]
        section = "categorical"
        "a=b" = "x=y"
        """
    )
    from_file = {
        "run": "runs/mine",
        "config": "ssl-recall.toml",
        "shuffles": 3,
        "rate": 0.25,
        "corrected": False,
        "name": "[red]",
        "kind": ["section=categorical", "a=b=x=y"],
        "hidden": [512, 256],
    }
    assert said("compute-mi") == from_file
    flags = ["--run", "other", "--shuffles", "5", "--corrected", "--kind", "size=numeric", "--hidden", "8"]
    assert said("compute-mi", *flags) == from_file | {
        "run": "other",
        "shuffles": 5,
        "corrected": True,
        "kind": ["size=numeric"],
        "hidden": [8],
    }


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rate=st.floats(0, allow_infinity=False), shuffles=st.integers(1, 99), corrected=st.booleans(), name=st.text())
def test_a_setting_arrives_as_it_was_written(
    folder: Path, rate: float, shuffles: int, corrected: bool, name: str
) -> None:
    name = "".join(char for char in name if char.isprintable())
    (folder / "ssl-recall.toml").write_text(
        f"[compute_mi]\nrate = {rate!r}\nshuffles = {shuffles}\ncorrected = {str(corrected).lower()}\n"
        f"name = {json.dumps(name, ensure_ascii=False)}",
        encoding="utf-8",
    )
    found = said("compute-mi")
    assert (found["rate"], found["shuffles"], found["corrected"], found["name"]) == (rate, shuffles, corrected, name)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.text("abcdefgilmnorstu_-", min_size=1, max_size=8))
def test_no_key_is_passed_over(folder: Path, key: str) -> None:
    known = {"run", "config", "shuffles", "rate", "corrected", "name", "kind", "hidden"}
    (folder / "ssl-recall.toml").write_text(f'[compute_mi]\n"{key}" = 1')
    if key not in known:
        assert f"[compute_mi] has no setting '{key}'" in refused("train")


def test_a_stage_takes_only_its_own_table(folder: Path) -> None:
    (folder / "ssl-recall.toml").write_text('[train]\nrun = "runs/train"\n[compute_mi]\nrate = 0.1')
    assert said("train") == {"run": "runs/train", "config": "ssl-recall.toml"}
    assert said("compute-mi")["run"] == str(options.DEFAULT_RUN)


def test_a_stage_s_own_run_folder_wins_over_the_shared_one(folder: Path) -> None:
    (folder / "ssl-recall.toml").write_text('run = "shared"\n[train]\nrun = "own"')
    assert said("train")["run"] == "own"
    assert said("compute-mi")["run"] == "shared"


def test_a_table_may_be_written_like_its_command(folder: Path) -> None:
    (folder / "ssl-recall.toml").write_text("[compute-mi]\nrate = 0.1")
    assert said("compute-mi")["rate"] == 0.1


def test_the_command_run_has_a_table_of_its_own(folder: Path) -> None:
    (folder / "ssl-recall.toml").write_text("[run]\nbaseline = false")
    assert said("run") == {"run": str(options.DEFAULT_RUN), "config": "ssl-recall.toml", "baseline": False}
    assert said("train")["run"] == str(options.DEFAULT_RUN)


def test_without_a_file_the_defaults_hold(folder: Path) -> None:
    assert said("train") == {"run": str(options.DEFAULT_RUN), "config": "None"}


def test_a_named_file_stands_in_for_the_one_in_the_folder(folder: Path) -> None:
    (folder / "ssl-recall.toml").write_text('run = "here"')
    (folder / "other.toml").write_text('run = "there"')
    assert said("train", "--config", "other.toml") == {"run": "there", "config": "other.toml"}
    assert said("train", "--run", "flag", "--config", "other.toml") == {"run": "flag", "config": "other.toml"}


def test_an_empty_file_says_nothing(folder: Path) -> None:
    (folder / "ssl-recall.toml").write_text("# all as it comes\n[train]\n")
    assert said("train")["run"] == str(options.DEFAULT_RUN)


def test_a_command_that_stands_alone_reads_its_table_too(folder: Path) -> None:
    alone = typer.Typer()
    alone.command("train")(train)
    (folder / "ssl-recall.toml").write_text('[train]\nrun = "own"')
    result = CliRunner().invoke(alone, [], prog_name="train")
    assert json.loads(result.stdout)["run"] == "own"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[compute_mi]\nshufles = 3", "[compute_mi] has no setting 'shufles'; did you mean 'shuffles'?"),
        ("[compute_mi]\nRate = 3", "[compute_mi] has no setting 'Rate'; did you mean 'rate'?"),
        ("[compute_mi]\n'--rate' = 3", "[compute_mi] has no setting '--rate'; did you mean 'rate'?"),
        ("[compute_mi]\nzzz = 3", "[compute_mi] has no setting 'zzz'"),
        ("[train.deep]\nx = 1", "[train] has no setting 'deep'"),
        ("[compute_im]\nrate = 1", "[compute_im] is no stage; did you mean 'compute_mi'?"),
        ("[trian]", "[trian] is no stage; did you mean 'train'?"),
        ("rnu = 'x'", "'rnu' stands outside a table; did you mean 'run'?"),
        ("shuffles = 3", "'shuffles' stands outside a table"),
        ("[[train]]\nrun = 'x'", "'train' stands outside a table"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(folder: Path, text: str, message: str) -> None:
    (folder / "ssl-recall.toml").write_text(text)
    for command in ("compute-mi", "train"):  # a mistake in another stage's table counts too
        assert message in refused(command)


@pytest.mark.parametrize(
    "line",
    [
        "shuffles = 0",
        "shuffles = 100",
        "shuffles = 3.7",
        "shuffles = 'three'",
        "shuffles = [1]",
        "shuffles = {a = 1}",
        "rate = -0.1",
        "rate = nan",
        "rate = 'much'",
        "rate = 2020-01-01",
        "corrected = 'perhaps'",
        "kind = 'section'",
        "hidden = ['wide']",
        "run = 3",
        "run = ['a', 'b']",
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_bounds_is_a_usage_error(folder: Path, line: str) -> None:
    (folder / "ssl-recall.toml").write_text(f"[compute_mi]\n{line}")
    result = invoke("compute-mi")
    assert result.exit_code == 2, result.output
    assert f"--{line.split()[0]}" in result.stderr


def test_a_wrong_shared_run_folder_is_a_usage_error(folder: Path) -> None:
    (folder / "ssl-recall.toml").write_text("run = 3")
    assert invoke("train").exit_code == 2


@pytest.mark.parametrize(
    "content", [b"rate = ", b"[train", b"a = 1\na = 2", b"\xff\xfe[train]", b"\x00", b"run = 'a\nb'"]
)
def test_what_is_no_toml_is_refused_with_its_name(folder: Path, content: bytes) -> None:
    (folder / "ssl-recall.toml").write_bytes(content)
    message = refused("train")
    assert message.startswith("BAD_TOML: ssl-recall.toml: ")
    assert len(message.splitlines()) == 1


def test_a_missing_file_or_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone\.toml: no such file; write one with: ssl-recall init"):
        settings_file.read(folder / "gone.toml")
    with pytest.raises(SettingsError, match="BAD_TOML"):
        settings_file.read(folder)
    assert "no such file" in refused("train", "--config", "gone.toml")


def test_a_refused_file_stops_the_command_before_it_begins(folder: Path) -> None:
    (folder / "ssl-recall.toml").write_text("[train]\nrnu = 1")
    result = invoke("train")
    assert result.stdout == ""
    assert isinstance(result.exception, SettingsError)
    assert result.exception.code == 2


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def said(*arguments: str) -> dict[str, Any]:
    result = invoke(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return dict(json.loads(result.stdout))


def refused(*arguments: str) -> str:
    result = invoke(*arguments)
    assert isinstance(result.exception, SettingsError), (result.output, result.exception)
    return str(result.exception)
