"""The test pairs, and the earlier items of their queries."""

from typing import TYPE_CHECKING

from stages.run_folder import layout, reader
from stages.terminal.errors import InputError

from . import training_inputs

if TYPE_CHECKING:
    from ssl_recall.evaluation.comparison import Truth


def truth_of(job: reader.Reader) -> "Truth":
    """Read the test pairs, and the training and validation items of their queries. Raises InputError without pairs."""
    import polars as pl
    import torch

    from ssl_recall.evaluation.comparison import Truth

    test = job.read(layout.TEST, ["query_index", "item_index"])
    if test.is_empty():
        raise InputError(f"{layout.TEST}: empty, no pairs to measure; raise --test-share of prepare", "TOO_FEW")
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
