"""Print metrics.parquet as a table with notes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import console

if TYPE_CHECKING:
    import polars as pl


Figures = dict[tuple[str, str, str], dict[str, Any]]  # (model, slice, metric) -> its row
HEAD_SHARE = 0.1  # of the items
FEW = 500  # test pairs; with fewer, noise exceeds the effect to measure
EASY = 0.1  # share of the catalogue; for a longer list recall is easy
SLICES = ("all", "head", "tail", "cold", "warm-tail")
TITLES = {"most-popular": "most popular", "no-ssl": "no SSL", "ssl": "SSL"}


def show(frame: "pl.DataFrame", head_share: float, k: int = 50) -> None:
    """Print recall by slice, one column per model, and the gain from SSL, at the measured k nearest to `k`."""
    from rich.table import Table

    k = min(frame["k"].unique().to_list(), key=lambda measured: (abs(measured - k), measured))
    figures = {(row["model"], row["slice"], row["metric"]): row for row in frame.filter(k=k).iter_rows(named=True)}
    names = [name for name in TITLES if (name, "all", "recall") in figures]
    table = Table(title=f"recall@{k} on the test pairs", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name in names:
        table.add_column(TITLES[name], justify="right")
    paired = "no-ssl" in names
    if paired:
        table.add_column("SSL - no SSL", justify="right")
    table.add_column("test pairs", justify="right")
    for part in SLICES:
        cells = [_figure(figures[name, part, "recall"]) for name in names]
        change = [_figure(figures["ssl - no-ssl", part, "recall"], sign="+")] if paired else []
        table.add_row(part, *cells, *change, f"{figures[names[0], part, 'recall']['n']:,}")
    for metric, title, form in (
        ("ndcg", f"ndcg@{k}", ".3f"),
        ("coverage", f"coverage@{k}", ".1%"),
        ("mean_popularity", "mean popularity", ",.0f"),
    ):
        row = [format(figures[name, "all", metric]["value"], form) for name in names]
        table.add_row(title, *row, *([""] if paired else []), "", style="dim")
    console.out.print(table)
    console.out.print(
        f"recall@{k}: share of the test pairs whose item is among the {k} nearest of the whole catalogue, without the "
        f"items that the query took before [95 % interval over queries]\n{legend(head_share)}",
        style="dim",
    )
    for note in notes(figures, names, k):
        console.out.print(f"note: {note}", style="yellow", soft_wrap=True)


def legend(head_share: float = HEAD_SHARE) -> str:
    """Return the definition of the slices."""
    return (
        f"head: the {head_share:.0%} of all items with most training interactions; tail: all others; cold: those with "
        "none; warm-tail: the rest of the tail"
    )


def notes(figures: Figures, names: list[str], k: int) -> Iterator[str]:
    """Yield the warnings that a reader of the table needs."""
    pairs, items = figures[names[0], "all", "recall"]["n"], figures[names[0], "all", "coverage"]["n"]
    popular, own = (figures[name, "all", "recall"]["value"] for name in ("most-popular", "ssl"))
    if popular >= own:
        yield unbeaten(popular, own)
    change = {part: figures.get(("ssl - no-ssl", part, "recall"), {}).get("high") for part in SLICES}
    worse = [part for part, high in change.items() if high is not None and high < 0]
    if worse:
        yield (
            f"with SSL less is recalled of {' and '.join(worse)}: try another --ssl-weight or --temperature "
            "(ssl-recall tune), or serve the vectors of no-ssl/"
        )
    sizes = {part: figures[names[0], part, "recall"]["n"] for part in SLICES}
    if pairs < FEW:
        yield few(f"{pairs:,}")
    elif rare := [f"{n:,} {part}" for part, n in sizes.items() if 0 < n < FEW]:
        yield few(", ".join(rare))
    if k > EASY * items:
        yield (
            f"{k} of {items:,} items are a tenth of the catalogue or more, so recall is easy; try a smaller k "
            "(evaluate --k, or k = [..] under [evaluate])"
        )


def unbeaten(popular: float, own: float) -> str:
    """Return what to try if the model recalls no more than most-popular."""
    return (
        f"most popular recalls as much as the model or more ({popular:.3f}, {own:.3f}): too few steps, or a log that "
        "teaches little but popularity; try smaller batches, a history and, if validation rose to the end, more epochs"
    )


def few(pairs: str) -> str:
    """Return the note about figures of few test pairs."""
    return f"{pairs} test pairs are few: read the intervals, not the figures"


def _figure(row: dict[str, float | None], sign: str = "") -> str:
    if row["value"] is None:
        return "-"
    return f"{row['value']:{sign}.3f} [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"
