"""The test pairs, and the earlier items of their queries."""

from enum import StrEnum
from typing import TYPE_CHECKING

from stages.run_folder import layout, reader
from stages.terminal.errors import InputError, SettingsError

from . import training_inputs

if TYPE_CHECKING:
    import polars as pl

    from ssl_recall.evaluation.comparison import Truth


class Targets(StrEnum):
    """The targets of a list: all test pairs of a query at once, or one pair, with the earlier pairs known."""

    ALL = "all"
    NEXT = "next"


def truth_of(job: reader.Reader, targets: Targets = Targets.ALL) -> "Truth":
    """Read the test pairs, and the earlier items of their queries. Raises InputError without pairs.

    The earlier items are those of training and validation. With `next`, they are all that the query took strictly
    before the pair. It needs times: raises SettingsError.
    """
    if targets is Targets.NEXT:
        return _truth_by_pair(job)
    import polars as pl
    import torch

    from ssl_recall.evaluation.comparison import Truth

    test = job.read(layout.TEST, ["query_index", "item_index"])
    _need_pairs(test)
    counts = job.read(layout.POPULARITY)["count"].to_torch()
    held = training_inputs.interactions_of(test, int(test["query_index"].max() or 0) + 1)  # type: ignore[arg-type]
    queries, rows = held.queries.unique(return_inverse=True)
    earlier = [job.read(name, ["query_index", "item_index"]) for name in (layout.TRAIN, layout.VALIDATION)]
    train, validation = (log.filter(pl.col("query_index").is_in(queries.tolist())) for log in earlier)
    before = pl.concat([train, validation])
    renumbered = torch.searchsorted(queries, before["query_index"].to_torch().long())
    order = torch.argsort(renumbered, stable=True)
    lengths = torch.bincount(renumbered, minlength=len(queries))
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    taken = before["item_index"].to_torch().long()[order]
    trained = torch.isin(queries, train["query_index"].to_torch().long())
    return Truth(rows, held.items, queries, (offsets, taken), counts, trained)


def _truth_by_pair(job: reader.Reader) -> "Truth":
    """Make one list per test pair, which knows what the query took strictly before: pairs by query, time and item."""
    import polars as pl
    import torch

    from ssl_recall.data.histories import before
    from ssl_recall.evaluation.comparison import Truth

    if not job.has_column(layout.TEST, "timestamp"):
        raise SettingsError("--targets next needs times: prepare with --timestamp", "NO_TIME")
    columns = ["query_index", "item_index", "timestamp"]
    test = job.read(layout.TEST, columns)
    _need_pairs(test)
    sides = [job.read(name, columns) for name in (layout.TRAIN, layout.VALIDATION)]
    asked = test["query_index"].unique()
    train, validation = (side.filter(pl.col("query_index").is_in(asked.implode())) for side in sides)
    parts = zip((train, validation, test), (False, False, True), strict=True)
    whole = pl.concat([part.with_columns(is_test=is_test) for part, is_test in parts])
    whole = whole.sort("query_index", "timestamp", "item_index")
    log = training_inputs.interactions_of(whole, int(asked.max() or 0) + 1)  # type: ignore[arg-type]
    pairs = torch.from_numpy(whole["is_test"].arg_true().to_numpy().copy()).long()
    known = before(log, pairs, len(log.items))
    offsets = torch.cat([known.lengths.new_zeros(1), known.lengths.cumsum(0)])
    queries, items = log.queries[pairs].long(), log.items[pairs].long()
    owners = queries.unique(return_inverse=True)[1]
    trained = torch.isin(queries, train["query_index"].to_torch().long())
    counts = job.read(layout.POPULARITY)["count"].to_torch()
    return Truth(torch.arange(len(pairs)), items, queries, (offsets, known.items), counts, trained, owners)


def _need_pairs(test: "pl.DataFrame") -> None:
    if test.is_empty():
        raise InputError(f"{layout.TEST}: empty, no pairs to measure; raise --test-share of prepare", "TOO_FEW")
