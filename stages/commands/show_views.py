"""Show an item's views in words."""

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import typer

from stages.options import RunFolder
from stages.run_folder import layout, reader
from stages.terminal import console
from stages.terminal.errors import SettingsError

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table

    from ssl_recall.data.features import EncodedTable


READS = (layout.FEATURES, layout.VOCABULARY, layout.ITEMS, layout.VIEWS)
FIRST_ONES = 4  # variants shown without --variant
HIDDEN, MISSING = "default", "(missing)"


def show_views(
    item: Annotated[str, typer.Argument(metavar="ITEM", help="An item id of the catalogue.")],
    folder: RunFolder,
    variant: Annotated[int | None, typer.Option(min=0, help="Print only this variant. [default: the first 4]")] = None,
) -> None:
    """Print the pairs of views of one item in words, one table per variant; a hidden feature reads `default`.

    Reads features, vocabulary, items and views; writes nothing. A missing value, and the id of an item too rare for an
    id vector, is `default` in every view; a value outside the vocabulary is `unknown`.
    """
    with reader.reading(folder.run, READS, folder.config) as job:
        import polars as pl

        from ssl_recall.data.features import encoded_table
        from ssl_recall.data.packed_views import unpack_masks

        described = job.read(layout.FEATURES).filter(pl.col("side") == "item")
        items = job.read(layout.ITEMS)
        row = items.filter(pl.col("item_id").cast(pl.String) == item)
        if not row.height:
            raise SettingsError(f"no item {item!r} in the catalogue; {_nearest(item, items)}", "UNKNOWN_ITEM")
        table = encoded_table(row, described)
        job.need(layout.VIEWS, ["neighbour_index"])
        own = job.read(layout.VIEWS).filter(pl.col("item_id") == row["item_id"][0])
        if variant is not None:
            if variant not in own["variant"]:
                raise SettingsError(f"--variant {variant}: there are 0 to {own['variant'].n_unique() - 1}", "VARIANT")
            own = own.filter(pl.col("variant") == variant)
        left = own["variant"].to_list()[FIRST_ONES:]
        own = own.head(FIRST_ONES)
        keep_a, keep_b = unpack_masks(own, table.offsets, len(table.names))
        words = _words(table, job.read(layout.VOCABULARY))

        came = [_as_came(row[name][0]) for name in table.names]
        for number, (shown, seed, neighbour) in enumerate(
            own.select("variant", "seed_feature", "neighbour_index").rows()
        ):
            title = f"variant {shown}" + (f", seed feature {seed}" if seed is not None else "")
            title += f", neighbour {items['item_id'][neighbour]}" if neighbour is not None else ", no neighbour"
            sides = [_view(words, table, keep[number].tolist()) for keep in (keep_a, keep_b)]
            console.out.print(_side_by_side(title, table.names, came, *sides))
        if left:
            console.line(f"{len(left)} more variants, {left[0]} to {left[-1]}: print one with --variant")


def _nearest(item: str, items: "pl.DataFrame") -> str:
    import difflib

    import polars as pl

    ids = items["item_id"].cast(pl.String)
    start = ids.filter(ids.str.to_lowercase().str.starts_with(item[:1].lower()))  # comparing all ids takes seconds
    close = difflib.get_close_matches(item, start.to_list(), n=3)
    return "did you mean " + ", ".join(map(repr, close)) if close else f"the first is {ids.first()!r}"


def _words(table: "EncodedTable", vocabulary: "pl.DataFrame") -> list[str]:
    """Name each of the item's values: -> V words."""
    import polars as pl

    from ssl_recall.data.codes import DEFAULT, UNKNOWN, Kind

    bounds = table.offsets.tolist()
    words = []
    for number, (name, kind) in enumerate(zip(table.vocabularies, table.kinds, strict=True)):
        codes = table.codes[bounds[number] : bounds[number + 1]].tolist()
        known = vocabulary.filter(pl.col("vocabulary") == name, pl.col("code").is_in(codes))
        word = {DEFAULT: HIDDEN, UNKNOWN: "present" if kind is Kind.DENSE else "unknown"}
        word |= dict(known.select("code", "value").rows())
        words += [word[code] for code in codes]
    return words


def _view(words: list[str], table: "EncodedTable", keep: list[bool]) -> list[str]:
    """Write the values that a view keeps of each feature: -> K texts."""
    bounds = table.offsets.tolist()
    shown = []
    for start, end in pairwise(bounds):
        kept = [word for word, stays in zip(words[start:end], keep[start:end], strict=True) if stays]
        shown.append(", ".join(kept) or HIDDEN)
    return shown


def _as_came(value: object) -> str:
    """Write an item's raw value: a list with commas, a vector by its length."""
    import polars as pl

    if isinstance(value, pl.Series):
        if value.dtype.is_float():
            return f"{len(value)} numbers"
        value = ", ".join(map(str, value.drop_nulls()))
    return MISSING if value is None or value == "" else str(value)


def _side_by_side(title: str, features: tuple[str, ...], *columns: list[str]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("feature", "item", "view a", "view b", title=Text(console.printable(title)), title_justify="left")
    for cells in zip(features, *columns, strict=True):
        table.add_row(
            *(Text(console.printable(cell), style="dim" if cell in (HIDDEN, MISSING) else "") for cell in cells)
        )
    return table
