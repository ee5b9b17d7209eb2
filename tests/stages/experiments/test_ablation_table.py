"""The table of an ablation: complete at any terminal width, and printed with its caveats."""

import re

import polars as pl
import pytest

from stages.experiments import ablation_table, arms
from stages.terminal import console, metrics_table


def test_a_cell_is_written_as_in_the_paper() -> None:
    row = {"value": 0.349, "difference": 0.0121, "low": -0.0004, "high": 0.02}
    assert ablation_table._cell(row) == "0.349 (+0.012 [-0.000, +0.020])"
    assert ablation_table._cell(row | {"low": None, "high": None}) == "0.349 (+0.012)"
    assert ablation_table._cell(row | {"difference": None}) == "0.349"
    assert ablation_table._cell(row | {"value": None}) == "-"
    assert ablation_table._short(1.0) == "1.000"
    assert ablation_table._short(-0.25, "+") == "-0.250"


def figures(pairs: dict[str, int], popular: float = 0.1) -> pl.DataFrame:
    """Return a table of every arm, as wide as it can get."""
    wide = {"value": 0.349, "difference": -0.012, "low": -0.204, "high": 0.103, "std": 0.01}
    none = dict.fromkeys(("difference", "low", "high", "std"))
    rows = [
        {"arm": arm, "slice": part, "metric": "recall", "k": 50, "seeds": 3, "n": n} | own
        for arm, own in {"most-popular": none | {"value": popular}, **dict.fromkeys(arms.ARMS, wide)}.items()
        for part, n in pairs.items()
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


MANY = {"all": 26969, "head": 22216, "tail": 4753, "cold": 1674, "warm-tail": 3079}


@pytest.mark.parametrize(("width", "panels"), [(60, 5), (80, 5), (100, 3), (120, 2), (200, 1)])
def test_the_terminal_s_table_is_whole_in_any_width(
    width: int, panels: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.out, "width", width)
    frame = figures(MANY)
    ablation_table.show(frame)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    cells = [re.split(r"  +", line) for line in shown.splitlines()]
    for name, *expected in ablation_table._rows(frame, 50):
        found = [cell for first, *own in cells if first == name for cell in own]
        assert found == expected, name
        assert sum(line[0] == name for line in cells) == panels


def test_every_cell_stands_under_the_slice_that_it_is_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.out, "width", 80)
    ablation_table.show(figures(MANY))
    lines = capsys.readouterr().out.splitlines()
    for line, pairs in zip(
        [line for line in lines if line.startswith(" ")],
        [line for line in lines if line.startswith("test pairs")],
        strict=True,
    ):
        for part in line.split():
            assert pairs[line.index(f" {part}") + 1 :].startswith(f"{MANY[part]:,}")


@pytest.mark.parametrize(
    ("pairs", "popular", "expected"),
    [
        (MANY, 0.1, []),
        (MANY | {"cold": 499, "warm-tail": 20, "tail": 500}, 0.1, ["499 cold, 20 warm-tail test pairs are few: read"]),
        (MANY | {"cold": 0}, 0.1, []),
        (MANY | {"all": 36, "cold": 3}, 0.1, ["36 test pairs are few: read the intervals, not the figures"]),
        (MANY, 0.349, ["most popular recalls as much as the model or more (0.349, 0.349): too few steps"]),
    ],
)
def test_what_makes_the_table_hard_to_believe_is_said_under_it(
    pairs: dict[str, int], popular: float, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    frame = figures(pairs, popular)
    ablation_table.show(frame)
    for text, start in ((capsys.readouterr().out, "note: "), (ablation_table.markdown(frame, ""), "Note: ")):
        notes = [line.removeprefix(start) for line in text.splitlines() if line.startswith(start)]
        assert [note[: len(one)] for note, one in zip(notes, expected, strict=True)] == expected


def test_the_slices_are_explained_in_the_words_of_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    ablation_table.show(figures(MANY))
    words = "head: the 10% of all items with most training interactions; tail: all others; cold: those with none"
    assert words in " ".join(capsys.readouterr().out.split())
    assert words in metrics_table.legend()
    assert words[1:] in ablation_table.markdown(figures(MANY), "")
