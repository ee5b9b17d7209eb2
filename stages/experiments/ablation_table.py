"""Tables of ablation.parquet, for the terminal and in Markdown."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stages.terminal import console, metrics_table
from stages.terminal.metrics_table import SLICES

from . import arms

if TYPE_CHECKING:
    import polars as pl


PAIRS = "test pairs"
GAP = 2  # spaces between two columns
LEGEND = (
    "share of the test pairs whose item is among the {k} nearest, mean over the seeds; in brackets the difference to "
    f"{arms.BASE} with the same seeds and queries [95 % interval over {{what}}]"
)


def show(frame: "pl.DataFrame", k: int = 50) -> None:
    """Print recall by arm and slice at the list length nearest to `k`, with as many columns as fit the terminal."""
    k = min(frame["k"].unique().to_list(), key=lambda measured: (abs(measured - k), measured))
    names, *slices = zip(("", *SLICES), *_rows(frame, k), strict=True)  # columns
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
    """Write one table per list length with its legend and notes, then `note`."""
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
    """Yield the caveats of the table: a model no better than most-popular, slices of few pairs."""
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
    """Explain the figures; with one seed, the interval does not cover other seeds."""
    several = max(frame["seeds"]) > 1
    return LEGEND.format(k=k, what="queries and seeds" if several else "queries; of one seed")


def _rows(frame: "pl.DataFrame", k: int) -> Iterator[list[str]]:
    figures = {(row["arm"], row["slice"]): row for row in frame.filter(k=k).iter_rows(named=True)}
    names = list(dict.fromkeys(name for name, _ in figures))
    for name in names:
        yield [name, *(_cell(figures[name, part]) for part in SLICES)]
    yield [PAIRS, *(f"{figures[names[0], part]['n']:,}" for part in SLICES)]


def _cell(row: dict[str, Any]) -> str:
    """Format a cell, such as `0.349 (+0.012 [+0.003, +0.020])`."""
    if row["value"] is None:
        return "-"
    if row["difference"] is None:
        return _short(row["value"])
    change = _short(row["difference"], sign="+")
    if row["low"] is None:  # a single query has no interval
        return f"{_short(row['value'])} ({change})"
    low, high = (_short(row[name], sign="+") for name in ("low", "high"))
    return f"{_short(row['value'])} ({change} [{low}, {high}])"


def _short(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}"
