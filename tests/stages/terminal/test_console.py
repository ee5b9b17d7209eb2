"""The user's text is printed verbatim: it is no markup, and it does not steer the terminal."""

import shlex
from pathlib import Path

import pytest

from stages.run_folder.job import Job
from stages.terminal import console
from stages.terminal.errors import ArtifactError

AWKWARD = ["[red]", "[bold]a[/bold]", "[/]", "[link=http://x]y", ":bug:", "\\[a]", "日本", "%s%n", "$(touch x)", "-rf"]


@pytest.mark.parametrize("text", AWKWARD)
def test_text_is_printed_as_it_stands(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path, title="before")
    publish(tmp_path, title=text)
    console.warn(f"column {text}")
    console.out.print(f"column {text}")
    with console.progress(text, 1) as advance:
        advance(1)
    captured = capsys.readouterr()
    assert f"runs again: title was before, now {text}\n" in captured.err
    assert f"warning: column {text}\n" in captured.err
    assert captured.out == f"column {text}\n"


@pytest.mark.parametrize("name", [*(name.replace("/", "") for name in AWKWARD), "a\nb", "a b", "..a", "~", "C:\\x"])
def test_a_run_folder_s_name_is_only_a_path(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path(name)
    publish(run)
    assert [path.name for path in tmp_path.iterdir()] == [name]

    (run / "train.parquet").unlink()
    with pytest.raises(ArtifactError) as refusal:
        publish(run, stage="compute-popularity", reads="train.parquet", writes="popularity.parquet")
    assert (
        str(refusal.value)
        == f"MISSING: {run}/train.parquet: missing; run: ssl-recall prepare --run {shlex.quote(name)}"
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("text", ["\x1b[2J", "\x1b]0;owned\x07", "\x9b2J", "a\rb", "a\nwarning: b", "\u202etxt.exe"])
def test_text_does_not_steer_the_terminal(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path, title="before")
    publish(tmp_path, title=text)
    console.warn(f"column {text}")
    captured = capsys.readouterr()
    assert [char for char in captured.err if not char.isprintable() and char != "\n"] == []
    assert len(captured.err.splitlines()) == 4  # published, runs again, published, the warning


def publish(
    run: Path, stage: str = "prepare", reads: str | None = None, writes: str = "train.parquet", **settings: str
) -> None:
    with Job(run, stage, settings, reads=[reads] if reads else [], writes=[writes]) as job, job.open(writes) as file:
        file.write(b"x")
