"""Read a table of queries that come after the training: their features, and the items that each took."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.run_folder import layout, reader, source_files
from stages.terminal import console
from stages.terminal.errors import SettingsError

from . import id_columns, new_rows, tables
from .problems import Problems

if TYPE_CHECKING:
    import polars as pl

    from ssl_recall.data.features import EncodedTable
    from ssl_recall.data.histories import Histories

JOINED = "|"  # between the item ids of a history in a CSV file


@dataclass(frozen=True)
class NewQueries:
    """N queries, encoded as `prepare` encodes them."""

    ids: "pl.Series"  # (N,)
    table: "EncodedTable"
    histories: "Histories | None"  # None if the model has no history


def read(job: reader.Reader, path: Path, column: str, size: int) -> NewQueries:
    """Read the queries of a user's table, each with the items in the list `column`.

    `size` is the length of the model's history, 0 for none. With a clock, a list is in the order of time, and its
    newest `size` items count. Raises SettingsError if nothing describes a new query, InputError with every problem.
    """
    form, problems = new_rows.form_of(job, "query"), Problems(f"--queries {path}")
    if not size and not form.names:
        raise SettingsError(
            f"--queries {path}: nothing describes a new query, the model knows queries by their ids alone; "
            "give prepare a table of queries with features, or train with --history",
            "NO_FEATURES",
        )
    table = new_rows.scan(job, path, form, problems, column if size else None)
    if not size and column in table.schema and column not in form.names:
        console.warn(f"{path}: column {column!r} is ignored: the model has no history; train with --history reads it")
    lists = _lists(job, table, column, problems) if size else None
    ids, encoded = new_rows.encode(job, table, form, problems)
    if lists is None:
        return NewQueries(ids, encoded, None)
    newest = size if job.has_column(layout.TRAIN, "timestamp") else None
    return NewQueries(ids, encoded, _histories(job, lists, newest, f"{path}: column {column!r}"))


def _lists(job: reader.Reader, table: tables.Table, column: str, problems: Problems) -> "pl.Series | None":
    """Read the item ids of each query as texts, each once, where it first stands; note why the column has none."""
    import polars as pl

    if text := table.too_large(column):
        problems.add("LIMIT", f"column {column!r} {text}")
        return None
    values, known = table.column(column).alias("taken"), job.read(layout.ITEMS, ["item_id"])["item_id"]
    if source_files.is_csv(table.path):
        pieces = values.cast(pl.String).str.split(JOINED)
        values = pieces.list.eval(pl.element().str.strip_chars()).list.eval(pl.element().filter(pl.element() != ""))
        known = known.cast(pl.String)  # a CSV file has no types
    if values.dtype == pl.Null:
        values = values.cast(pl.List(known.dtype))
    if not isinstance(values.dtype, pl.List | pl.Array):
        text = f"column {column!r} is of type {values.dtype}, no list; write lists of item ids"
        problems.add("ID_TYPES", f"{text}, in CSV joined by {JOINED!r}")
        return None
    inner = values.dtype.inner
    if inner in (pl.Categorical, pl.Enum):
        inner = pl.String()
    if inner != pl.Null and not id_columns.comparable(pl.Series(dtype=inner), known):
        text = f"column {column!r} holds lists of {inner} but item ids are {known.dtype} in the catalogue"
        problems.add("ID_TYPES", f"{text}; write lists of {known.dtype}")
        return None
    return values.cast(pl.List(pl.String)).list.drop_nulls().list.unique(maintain_order=True)


def _histories(job: reader.Reader, lists: "pl.Series", newest: int | None, title: str) -> "Histories":
    """Find the row of each item in the catalogue; keep the last `newest` known ones of each list, None for all.

    One warning counts the items that the catalogue lacks.
    """
    import polars as pl
    import torch

    from ssl_recall.data.histories import Histories

    catalogue = job.read(layout.ITEMS, ["item_id"])["item_id"]
    rows = pl.DataFrame({"item": catalogue.cast(pl.String)}).with_row_index("row")
    taken = pl.DataFrame({"item": lists}).with_row_index("query").explode("item", empty_as_null=True).drop_nulls()
    found = taken.join(rows, on="item", how="left", maintain_order="left")
    unknown = found.filter(pl.col("row").is_null())["item"]
    if len(unknown):
        every = len(unknown) == found.height
        hint = (
            f"; that is all of them: are they written as in the catalogue, such as {catalogue[0]!r}?" if every else ""
        )
        console.warn(
            f"{title}: {len(unknown):,} items ({len(unknown) / found.height:.1%}) are not in the catalogue, such as "
            f"{unknown[0]!r}; set aside{hint}"
        )
    kept = found.drop_nulls("row")
    if newest is not None:
        kept = kept.filter(pl.col("row").cum_count(reverse=True).over("query") <= newest)
    owners = torch.from_numpy(kept["query"].cast(pl.Int64).to_numpy().copy())
    lengths = torch.bincount(owners, minlength=len(lists))
    return Histories(torch.from_numpy(kept["row"].cast(pl.Int64).to_numpy().copy()), lengths)
