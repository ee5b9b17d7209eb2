"""ablation.parquet as a person reads it: on the terminal, and as Markdown."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import arms, console
from .metrics_table import SLICES

if TYPE_CHECKING:
    import polars as pl

PAIRS = "test pairs"
LEGEND = (
    "share of the test pairs whose item is among the {k} nearest, mean over the seeds; in brackets the difference to "
    f"{arms.BASE} with the same seeds and queries [95 % interval over {{what}}]"
)


def show(frame: "pl.DataFrame", k: int = 50) -> None:
    """Print recall by arm and slice, at the k nearest to 50."""
    from rich.table import Table

    k = min(frame["k"].unique().to_list(), key=lambda measured: (abs(measured - k), measured))
    table = Table(title=f"recall@{k} on the test pairs", title_justify="left", box=None, pad_edge=False)
    for title in ("", *SLICES):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for row in _rows(frame, k):
        table.add_row(*(cell.replace(" [", "\n[") for cell in row))  # five slices stand side by side
    console.out.print(table)
    console.out.print(_legend(frame, k), style="dim")


def markdown(frame: "pl.DataFrame", note: str) -> str:
    """Write a table for every k, and under them what they are of."""
    lines: list[str] = []
    for k in frame["k"].unique().sort().to_list():
        lines += [f"## recall@{k} on the test pairs", "", f"| arm | {' | '.join(SLICES)} |"]
        lines += ["| --- |" + " ---: |" * len(SLICES)]
        lines += [f"| {' | '.join(row)} |" for row in _rows(frame, k)]
        legend = _legend(frame, k)
        lines += ["", f"{legend[0].upper()}{legend[1:]}.", ""]
    return "\n".join([*lines, note, ""])


def _legend(frame: "pl.DataFrame", k: int) -> str:
    """Say what the figures are; one seed tells nothing about others."""
    several = max(frame["seeds"]) > 1
    return LEGEND.format(k=k, what="queries and seeds" if several else "queries; of one seed")


def _rows(frame: "pl.DataFrame", k: int) -> Iterator[list[str]]:
    figures = {(row["arm"], row["slice"]): row for row in frame.filter(k=k).iter_rows(named=True)}
    names = list(dict.fromkeys(name for name, _ in figures))
    for name in names:
        yield [name, *(_cell(figures[name, part]) for part in SLICES)]
    yield [PAIRS, *(f"{figures[names[0], part]['n']:,}" for part in SLICES)]


def _cell(row: dict[str, Any]) -> str:
    """Write `.349 (+.012 [+.003, +.020])`."""
    if row["value"] is None:
        return "-"
    if row["difference"] is None:
        return _short(row["value"])
    change, low, high = (_short(row[name], sign="+") for name in ("difference", "low", "high"))
    return f"{_short(row['value'])} ({change} [{low}, {high}])"


def _short(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:{sign}.3f}"
