"""Print metrics.parquet as a table with notes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from . import console
from .advice import TITLES, advice, sign_of

if TYPE_CHECKING:
    import polars as pl
    from rich.text import Text


Figures = dict[tuple[str, str, str], dict[str, Any]]  # (model, slice, metric) -> its row
HEAD_SHARE = 0.1  # of the items
FEW = 500  # test pairs; with fewer, noise exceeds the effect to measure
EASY = 0.1  # share of the catalogue; for a longer list recall is easy
SLICES = ("all", "head", "tail", "cold", "warm-tail")
BY_QUERY = ("known-queries", "new-queries")  # shown if new queries have test pairs
MODELS = ("no-ssl", "ssl")  # with intervals
CHANGE = "ssl - no-ssl"
GAP = 2  # spaces between two columns


def show(frame: "pl.DataFrame", head_share: float, k: int = 50, *, by_pair: bool = False) -> None:
    """Print recall by slice, one column per model, and the gain from SSL, at the measured k nearest to `k`.

    `by_pair` says that each test pair has a list of its own.
    The last line says which model to serve.
    """
    k = min(frame["k"].unique().to_list(), key=lambda measured: (abs(measured - k), measured))
    figures = {(row["model"], row["slice"], row["metric"]): row for row in frame.filter(k=k).iter_rows(named=True)}
    names = [name for name in TITLES if (name, "all", "recall") in figures]
    slices = list(SLICES) + (list(BY_QUERY) if figures[names[0], "new-queries", "recall"]["n"] else [])
    heads = ["", *(TITLES[name].replace(" ", "\n") if name not in MODELS else TITLES[name] for name in names)]
    heads += (["SSL - no SSL"] if "no-ssl" in names else []) + ["test\npairs"]
    rows = [[part, *_cells(figures, names, part), f"{figures[names[0], part, 'recall']['n']:,}"] for part in slices]
    foot = [_of_all(figures, names, *form) for form in _forms(k)]
    lists = ", each with a list made from what its query took before it" if by_pair else ""
    console.out.print(f"recall@{k} on the test pairs{lists}")
    _print_table(heads, rows, foot, [_best(figures, names, part) for part in slices])
    console.out.print(
        f"recall@{k}: share of the test pairs whose item is among the {k} nearest of the whole catalogue, without the "
        f"items that the query took before; bold: the best {_intervals(figures['ssl', 'all', 'recall']['seeds'])}\n"
        f"{legend(head_share)}",
        style="dim",
    )
    for note in notes(figures, names, k):
        console.out.print(f"note: {note}", style="yellow", soft_wrap=True)
    console.out.print(advice(frame, k), style="bold", soft_wrap=True)


def _intervals(seeds: int) -> str:
    """Say what the intervals of the models and of their difference cover."""
    if seeds > 1:
        return f"[95 % interval over queries and {seeds} seeds]; coverage and mean popularity are those of one seed"
    return (
        "[95 % interval over queries]; one seed: the spread of training seeds is not in the intervals, so a difference "
        "has none; for more seeds run: ssl-recall run --seeds 3"
    )


def _cells(figures: Figures, names: list[str], part: str) -> list[str]:
    """Write the recall of each model in a slice, with an interval for those of MODELS, and the gain from SSL.

    The gain has an interval if it has several seeds.
    """
    cells = [_figure(figures[name, part, "recall"], interval=name in MODELS) for name in names]
    if "no-ssl" in names:
        change = figures[CHANGE, part, "recall"]
        cells.append(_figure(change, sign="+", interval=change["seeds"] > 1))
    return cells


def _best(figures: Figures, names: list[str], part: str) -> set[int]:
    """Return the columns of the highest recall of a slice as it is printed, none if all are 0."""
    printed = [f"{figures[name, part, 'recall']['value'] or 0:.3f}" for name in names]
    return {place for place, text in enumerate(printed, 1) if text == max(printed) and float(text)}


def _forms(k: int) -> list[tuple[str, str, str]]:
    return [
        ("ndcg", f"ndcg@{k}", ".3f"),
        ("coverage", f"coverage@{k}", ".1%"),
        ("mean_popularity", "mean popularity", ",.0f"),
    ]


def _of_all(figures: Figures, names: list[str], metric: str, title: str, form: str) -> list[str]:
    cells = [format(figures[name, "all", metric]["value"], form) for name in names]
    return [title, *cells, *([""] if "no-ssl" in names else []), ""]


def _print_table(heads: list[str], rows: list[list[str]], foot: list[list[str]], best: list[set[int]]) -> None:
    """Print the rows; where they are too wide for the terminal, put the intervals below their figures."""
    from rich.table import Table

    def width(cells: list[list[str]]) -> int:
        columns = zip(heads, *cells, *foot, strict=True)
        return sum(max(cell_len(line) for cell in own for line in cell.split("\n")) + GAP for own in columns) - GAP

    if width(rows) > console.out.width:
        rows = [[cell.replace(" [", "\n[") for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", vertical="top", header_style="")
    for row, marked in zip(rows, best, strict=True):
        table.add_row(*(_styled(cell, bold=place in marked) for place, cell in enumerate(row)))
    for row in foot:
        table.add_row(*row, style="dim")
    console.out.print(table)


def _styled(cell: str, *, bold: bool) -> "Text":
    """Make the figure of a cell bold, without its interval."""
    from rich.text import Text

    text = Text(cell)
    text.stylize("bold" if bold else "", 0, len("0.000"))
    return text


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
    worse = [part for part in SLICES if (row := figures.get((CHANGE, part, "recall"))) and sign_of(row, part) < 0]
    if worse:
        yield (
            f"with SSL less is recalled of {' and '.join(worse)}: try another --ssl-weight or --temperature "
            "(ssl-recall tune)"
        )
    new = figures.get((names[0], "new-queries", "recall"), {}).get("n", 0)
    if new > pairs / 2:
        yield f"{100 * new / pairs:.0f} % of the test pairs are of queries without training interactions"
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


def _figure(row: dict[str, float | None], sign: str = "", *, interval: bool = True) -> str:
    if row["value"] is None:
        return "-"
    ends = f" [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]" if interval and row["low"] is not None else ""
    return f"{row['value']:{sign}.3f}{ends}"
