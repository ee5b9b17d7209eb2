"""How often each item stands in the training log: the p of the logQ correction (Yi et al., RecSys 2019)."""

import math

import narwhals.stable.v2 as nw
from narwhals.stable.v2.typing import IntoLazyFrameT

UNSEEN_COUNT = 0.01


def log_popularity(
    interactions: IntoLazyFrameT,  # item_id: one row an interaction of the training split
    items: IntoLazyFrameT,  # item_id: one row an item of the catalogue
    unseen_count: float = UNSEEN_COUNT,
) -> IntoLazyFrameT:
    """Give every item of the catalogue its count, its share p of the interactions, and log p (nats, float64).

    -> item_id, count (int64), p, log_p, sorted by item_id; an item's share is c / sum of c, where c is its exact count,
    or `unseen_count` of an interaction when it was never taken, so that log p is finite and the p sum to 1. Nothing is
    clipped: a floor under p would flatten the tail, the very items that the correction is there for. Nor are seen items
    smoothed: a softmax only feels the ratios p_i / p_j, and those of seen items stay the ratios of their counts.

    Interactions with items outside the catalogue do not count. Raises ValueError unless 0 < unseen_count <= 1: an item
    never taken is no more popular than one taken once.
    """
    if not (math.isfinite(unseen_count) and 0 < unseen_count <= 1):
        raise ValueError(f"unseen_count must be above 0 and at most 1, is {unseen_count}")
    count = nw.col("count")
    counts = nw.from_native(interactions).group_by("item_id").agg(nw.len().cast(nw.Int64).alias("count"))
    joined = nw.from_native(items).select("item_id").join(counts, on="item_id", how="left")
    counted = joined.with_columns(count.fill_null(0))
    effective = nw.when(count > 0).then(count.cast(nw.Float64)).otherwise(nw.lit(unseen_count))
    # both sums run over integers, so p does not depend on the order in which an engine adds
    total = count.sum() + (count == 0).cast(nw.Int64).sum() * unseen_count
    shares = counted.with_columns((effective / total).alias("p"))
    return shares.with_columns(nw.col("p").log().alias("log_p")).sort("item_id").to_native()
