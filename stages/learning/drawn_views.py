"""Draw the views and neighbours of a catalogue, in the columns of views.parquet."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stages.run_folder import layout, reader
from stages.terminal.errors import SettingsError

from .view_settings import IdView, Transform, ViewSettings, variants_of

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from ssl_recall.data.features import EncodedTable
    from ssl_recall.views import Masks


def draw_views(job: reader.Reader, table: "EncodedTable", settings: ViewSettings) -> "Iterator[pl.DataFrame]":
    """Yield the views of the catalogue `table` in the columns of views.parquet, one block of items at a time."""
    import polars as pl

    from ssl_recall import neighbours, views
    from ssl_recall.data.features import rows_of
    from ssl_recall.data.packed_views import pack_mask

    transform, id_view = settings.transform, settings.id_view
    ids = job.read(layout.ITEMS, ["item_id"])["item_id"]
    hideable = hideable_features(table, id_view)
    similarity = None
    if transform is Transform.CORRELATED:
        similarity = _similarity(job.read(layout.MUTUAL_INFORMATION), hideable, settings.measure)
    seed, variants = settings.seed, variants_of(settings, table.rows)
    seeds: list[int | None] = [None] * variants
    if similarity is not None:
        seeds = [views.seed_feature(seed, variant, len(hideable)) for variant in range(variants)]

    shared = neighbours.sharing(table)

    def block(number: int) -> pl.DataFrame:
        low, high = number * views.BLOCK, min((number + 1) * views.BLOCK, table.rows)
        own, frames = rows_of(table, low, high), []
        for variant, grown_from in enumerate(seeds):
            rng = views.view_generator(seed, variant, number)
            kept = _hide(transform, rng, own.rows, len(hideable), settings.mask_rate, similarity, grown_from)
            if len(hideable) < len(table.names):
                kept = _with_id(id_view, rng, kept)
            masks = views.drop_values(rng, kept, own, settings.value_dropout)
            keep_a, keep_b = (pack_mask(mask, own.offsets, len(table.names)) for mask in masks)
            seed_name = None if grown_from is None else hideable[grown_from]
            beside = neighbours.draw(neighbours.neighbour_generator(seed, variant, number), shared, own, low)
            frames.append(_frame(ids[low:high], variant, seed_name, keep_a, keep_b, beside))
        return pl.concat(frames).sort("row", "variant").drop("row")

    return map(block, range(max(-(-table.rows // views.BLOCK), 1)))


def hideable_features(table: "EncodedTable", id_view: IdView) -> list[str]:
    """Name the features that the transform may hide: all, or all except the id."""
    kinds = zip(table.names, table.kinds, strict=True)
    return [name for name, kind in kinds if kind != "id" or id_view is IdView.FEATURE]


def _similarity(matrix: "pl.DataFrame", hideable: list[str], measure: str) -> "NDArray[np.float64]":
    """Return the (K, K) measure of the hideable features. Raises SettingsError if there are none."""
    from ssl_recall import views

    if not hideable:
        raise SettingsError(
            "--transform correlated needs a feature other than the item id; choose dropout", "NO_FEATURES"
        )
    known = set(matrix["feature_a"])
    missing = [name for name in hideable if name not in known]
    if missing:
        raise SettingsError(
            f"{layout.MUTUAL_INFORMATION} lacks {', '.join(missing)}; run: ssl-recall compute-mi --id include, "
            "or choose another --id-view",
            "NOT_MEASURED",
        )
    return views.similarity_matrix(matrix, hideable, measure)


def _hide(
    transform: Transform,
    rng: "np.random.Generator",
    items: int,
    features: int,
    mask_rate: float,
    similarity: "NDArray[np.float64] | None",
    grown_from: int | None,
) -> "Masks":
    """Apply the transform, stage 1: -> two (N, K) masks of the hideable features."""
    from ssl_recall import views

    match transform:
        case Transform.RANDOM_MASK:
            return views.random_mask(rng, items, features, mask_rate)
        case Transform.DROPOUT:
            return views.nothing_hidden(items, features)
        case Transform.COMPLEMENTARY:
            return views.complementary(rng, items, features)
        case Transform.CORRELATED:
            assert similarity is not None, "read above"
            assert grown_from is not None, "drawn above"
            return views.correlated(similarity, grown_from, items)


def _with_id(id_view: IdView, rng: "np.random.Generator", kept: "Masks") -> "Masks":
    """Prepend the column of the id, which is always the first feature."""
    import numpy as np

    from ssl_recall import views

    items = len(kept[0])
    masks = views.by_coin(rng, items) if id_view is IdView.RANDOM else views.nothing_hidden(items, 1)
    if id_view is IdView.HIDDEN:
        masks = ~masks[0], ~masks[1]
    return np.hstack([masks[0], kept[0]]), np.hstack([masks[1], kept[1]])


def _frame(
    item_ids: "pl.Series",
    variant: int,
    seed_name: str | None,
    keep_a: "pl.Series",
    keep_b: "pl.Series",
    beside: "NDArray[np.int32]",
) -> "pl.DataFrame":
    import polars as pl

    from ssl_recall.data.packed_views import NO_NEIGHBOUR

    columns = {"item_id": item_ids, "keep_a": keep_a, "keep_b": keep_b, "neighbour_index": beside}
    return pl.DataFrame(columns).select(
        pl.int_range(pl.len()).alias("row"),
        "item_id",
        pl.lit(variant, pl.Int16).alias("variant"),
        pl.lit(seed_name, pl.String).alias("seed_feature"),
        "keep_a",
        "keep_b",
        pl.col("neighbour_index").replace(NO_NEIGHBOUR, None),
    )
