"""ablation.parquet as a person reads it: on the terminal, and as Markdown."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import arms, console, metrics_table
from .metrics_table import SLICES

if TYPE_CHECKING:
    import polars as pl

PAIRS = "test pairs"
GAP = 2  # spaces between two columns
LEGEND = (
    "share of the test pairs whose item is among the {k} nearest, mean over the seeds; in brackets the difference to "
    f"{arms.BASE} with the same seeds and queries [95 % interval over {{what}}]"
)


def show(frame: "pl.DataFrame", k: int = 50) -> None:
    """Print recall by arm and slice, at the k nearest to 50: as many slices side by side as the terminal holds."""
    k = min(frame["k"].unique().to_list(), key=lambda measured: (abs(measured - k), measured))
    names, *slices = zip(("", *SLICES), *_rows(frame, k), strict=True)  # a column each
    first, wide = (max(len(cell) for column in part for cell in column) for part in ([names], slices))
    beside = max((console.out.width - first) // (GAP + wide), 1)
    console.out.print(f"recall@{k} on the test pairs")
    for part in (slices[at : at + beside] for at in range(0, len(slices), beside)):
        for name, *cells in zip(names, *part, strict=True):
            line = (" " * GAP).join([name.ljust(first), *(cell.ljust(wide) for cell in cells)])
            console.out.print(line.rstrip(), soft_wrap=True, style="" if name else "bold")
    console.out.print(f"{_legend(frame, k)}\n{metrics_table.legend()}", style="dim")
    for note in notes(frame, k):
        console.out.print(f"note: {note}", style="yellow", soft_wrap=True)


def markdown(frame: "pl.DataFrame", note: str) -> str:
    """Write a table for every k, and under them what they are of."""
    lines: list[str] = []
    for k in frame["k"].unique().sort().to_list():
        lines += [f"## recall@{k} on the test pairs", "", f"| arm | {' | '.join(SLICES)} |"]
        lines += ["| --- |" + " ---: |" * len(SLICES)]
        lines += [f"| {' | '.join(row)} |" for row in _rows(frame, k)]
        for said in (f"{_legend(frame, k)}. {metrics_table.legend()}", *(f"note: {note}" for note in notes(frame, k))):
            lines += ["", f"{said[0].upper()}{said[1:]}."]
        lines += [""]
    return "\n".join([*lines, note, ""])


def notes(frame: "pl.DataFrame", k: int) -> Iterator[str]:
    """Say what a reader of the table should know before believing it."""
    rows = list(frame.filter(k=k).iter_rows(named=True))
    recalls = {row["arm"]: row["value"] for row in rows if row["slice"] == "all"}
    popular, *own = recalls.values()
    if popular >= max(own):
        yield metrics_table.unbeaten(popular, max(own))
    pairs = {row["slice"]: row["n"] for row in rows}
    if pairs["all"] < metrics_table.FEW:
        yield metrics_table.few(f"{pairs['all']:,}")
    elif few := [f"{n:,} {part}" for part, n in pairs.items() if 0 < n < metrics_table.FEW]:
        yield metrics_table.few(", ".join(few))


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
    change = _short(row["difference"], sign="+")
    if row["low"] is None:  # of a single query: nothing is known of others
        return f"{_short(row['value'])} ({change})"
    low, high = (_short(row[name], sign="+") for name in ("low", "high"))
    return f"{_short(row['value'])} ({change} [{low}, {high}])"


def _short(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:{sign}.3f}"
