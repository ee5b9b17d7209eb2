"""Cut long lists of a multi-valued column to their most telling values."""

import numpy as np
import polars as pl

from .vocabularies import blocks, listed


def most_telling(lists: pl.Series, size: int, words: pl.DataFrame) -> tuple[pl.Series, int]:
    """Keep at most `size` values of each list, in their order; return also the number of lists that had more.

    `words` are rows of vocabulary.parquet: a value, and the count of the rows that have it. Values of at least two rows
    come first, the rarest before all, so by descending idf. Values of one row follow, then those outside the
    vocabulary. Among equals the first of the list is kept. A list holds distinct texts.
    """
    ranks = words.select("value", rank=pl.when(pl.col("count") > 1).then("count").otherwise(2**62))
    parts = [_cut(block, size, ranks) for block in blocks(lists)]
    return pl.concat([part for part, _ in parts]), sum(cut for _, cut in parts)


def without_unused(words: pl.DataFrame, lists: pl.Series) -> pl.DataFrame:
    """Leave out the values of a vocabulary that no list holds; the others keep their counts."""
    used = pl.concat([block.explode(empty_as_null=True).unique() for block in blocks(lists)]).unique()
    rest = words.filter(pl.col("value").is_in(used.implode()))
    return listed(words["vocabulary"][0], rest.select("value", "count")) if words.height else words


def _cut(lists: pl.Series, size: int, ranks: pl.DataFrame) -> tuple[pl.Series, int]:
    long = (lists.list.len() > size).fill_null(False)
    if not long.any():
        return lists, 0
    values = (
        pl.DataFrame({"value": lists.filter(long)})
        .with_row_index("row")
        .explode("value", empty_as_null=True)
        .with_row_index("place")
    )
    ranked = values.join(ranks, on="value", how="left").sort("row", "rank", "place", nulls_last=True)
    kept = ranked.group_by("row", maintain_order=True).head(size).sort("place")
    cut = kept.group_by("row", maintain_order=True).agg("value")["value"]
    places = np.concatenate([(~long).arg_true().to_numpy(), long.arg_true().to_numpy()])
    return pl.concat([lists.filter(~long), cut.alias(lists.name)])[np.argsort(places)], len(cut)
