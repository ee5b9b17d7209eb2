"""show-views prints an item's views in words."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ssl_recall import neighbours
from ssl_recall.data.packed_views import NO_NEIGHBOUR
from stages.learning.view_settings import IdView, Transform
from stages.terminal import console
from stages.terminal.errors import ArtifactError, SettingsError

from ...jobs import build_views, compute_mi, show_views


@pytest.fixture
def shown(catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(console.out, "_width", 200)
    compute_mi(catalogue)
    return catalogue


def cells(text: str) -> list[list[str]]:
    """Return the rows of the printed table."""
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_one_view_keeps_everything_and_says_it_in_the_models_words(
    shown: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_views(shown, transform=Transform.DROPOUT, value_dropout=0.0, id_view=IdView.KEPT, variants=1)
    capsys.readouterr()
    show_views("a", shown)
    output = capsys.readouterr().out

    assert output.splitlines()[0].strip().startswith("variant 0, neighbour ")
    assert cells(output) == [
        ["item_id", "a", "a", "a"],
        ["colour", "red", "red", "red"],
        ["shade", "warm", "warm", "warm"],
        ["tags", "x, y, z", "x, y, z", "x, y, z"],
        ["size", "1.5", "[1.5, 5)", "[1.5, 5)"],
        ["picture", "2 numbers", "present", "present"],
        ["licence", "free", "free", "free"],
    ]

    show_views("f", shown)  # too rare for an id vector, and with values outside the vocabulary
    rows = {row[0]: row[1:] for row in cells(capsys.readouterr().out)}
    assert rows["item_id"] == ["f", "default", "default"]
    assert rows["colour"] == ["green", "unknown", "unknown"]
    assert rows["tags"] == ["z, rare", "z, unknown", "z, unknown"]


def test_what_one_view_hides_is_default_there_and_a_word_in_the_other(
    shown: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_views(shown, transform=Transform.CORRELATED, value_dropout=0.0, variants=2)
    capsys.readouterr()
    show_views("a", shown)
    output = capsys.readouterr().out

    own = pl.read_parquet(shown / "views.parquet").head(2)
    ids, seeds = pl.read_parquet(shown / "items.parquet")["item_id"], own["seed_feature"]
    beside = [ids[row] for row in own["neighbour_index"]]
    titles = [line.strip() for line in output.splitlines() if "variant" in line]
    assert titles == [
        f"variant {number}, seed feature {seeds[number]}, neighbour {beside[number]}" for number in (0, 1)
    ]
    rows = cells(output)
    assert len(rows) == 14
    assert all([row[2], row[3]].count("default") == 1 for row in rows)
    assert {row[0]: row[2] for row in rows[:7]}[seeds[0]] == "default"


def test_an_unknown_item_gets_the_nearest_ids(shown: Path) -> None:
    build_views(shown)
    with pytest.raises(SettingsError, match="UNKNOWN_ITEM: no item 'aa' in the catalogue; did you mean 'a'"):
        show_views("aa", shown)
    with pytest.raises(SettingsError, match="no item 'zzz' in the catalogue; the first is 'a'"):
        show_views("zzz", shown)


def test_views_of_an_older_catalogue_are_refused(shown: Path, prepared_again: Callable[..., None]) -> None:
    build_views(shown)
    longer = pl.Series([[2, 3, 4] * 5] * 6, dtype=pl.List(pl.Int32))
    prepared_again(shown, items=pl.read_parquet(shown / "items.parquet").with_columns(tags__code=longer))
    with pytest.raises(
        ArtifactError,
        match=r"views\.parquet: written from another items\.parquet .* ssl-recall build-views",
    ):
        show_views("a", shown)


def test_a_missing_views_file_names_its_command(shown: Path) -> None:
    with pytest.raises(ArtifactError, match=r"views\.parquet: missing; run: ssl-recall build-views"):
        show_views("a", shown)


def test_control_characters_of_an_item_do_not_reach_the_terminal(
    shown: Path, prepared_again: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    items = pl.read_parquet(shown / "items.parquet")
    prepared_again(shown, items=items.with_columns(colour=pl.lit("\x1b[31m[/red]")))
    compute_mi(shown)
    build_views(shown, transform=Transform.DROPOUT)
    capsys.readouterr()
    show_views("a", shown)
    assert "\\x1b[31m[/red]" in capsys.readouterr().out


def test_the_first_four_variants_are_shown_and_how_to_see_the_others(
    shown: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stored, said in ((6, "2 more variants, 4 to 5: print one with --variant\n"), (4, "")):
        build_views(shown, variants=stored, force=True)
        capsys.readouterr()
        show_views("a", shown)
        output, notes = capsys.readouterr()
        titles = [line.split(",")[0].strip() for line in output.splitlines() if "variant" in line]
        assert titles == [f"variant {n}" for n in range(4)]
        assert notes == said


def test_one_variant_is_shown_where_it_is_asked_for(shown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_views(shown, variants=3)
    capsys.readouterr()
    show_views("a", shown, variant=1)
    output = capsys.readouterr().out
    assert "variant 1" in output
    assert output.count("variant") == 1
    with pytest.raises(SettingsError, match="VARIANT: --variant 3: there are 0 to 2"):
        show_views("a", shown, variant=3)


def test_the_first_item_as_a_neighbour_is_named_and_none_is_said(
    shown: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "draw", lambda *_: np.array([NO_NEIGHBOUR, 0, 0, 0, 0, 0], np.int32))
    build_views(shown, variants=1)
    capsys.readouterr()
    for item, said in (("a", "no neighbour"), ("b", "neighbour a")):
        show_views(item, shown)
        assert capsys.readouterr().out.splitlines()[0].strip() == f"variant 0, {said}"
