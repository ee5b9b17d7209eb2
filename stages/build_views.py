"""Build the pairs of corrupted views that the self-supervised task compares."""

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import artifacts, models, options, reader
from .errors import SettingsError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from ssl_recall.features import EncodedTable
    from ssl_recall.views import Masks

READS = ("items.parquet", "features.parquet", "mutual_information.parquet")
WRITES = ("views.parquet",)
VARIANTS = 32  # pairs of views per item: what they bring is in DECISIONS.md
VARIANTS_OF_MANY = 8  # in a catalogue of more than MANY_ITEMS, where 32 would take gigabytes
MANY_ITEMS = 1_000_000


class Transform(StrEnum):
    """How whole features are hidden."""

    RANDOM_MASK = "random-mask"
    DROPOUT = "dropout"
    COMPLEMENTARY = "complementary"
    CORRELATED = "correlated"


class Measure(StrEnum):
    """The column of mutual_information.parquet that says which features are alike."""

    MI = "mi"
    MI_CORRECTED = "mi_corrected"
    MI_NORMALISED = "mi_normalised"


class IdView(StrEnum):
    """What becomes of the item id."""

    FEATURE = "feature"
    RANDOM = "random"
    HIDDEN = "hidden"
    KEPT = "kept"


def build_views(
    run: options.RunOption = options.DEFAULT_RUN,
    config: options.ConfigOption = None,
    transform: Annotated[
        Transform,
        typer.Option(
            help="random-mask: each view hides features at random; dropout: none, only values are dropped; "
            "complementary: each view keeps its half; correlated: one view hides a seed feature and the ones most "
            "like it, the other the rest."
        ),
    ] = Transform.RANDOM_MASK,
    value_dropout: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the values of multi-valued features dropped; 0 for none.")
    ] = 0.3,
    mask_rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of features hidden by random-mask.")] = 0.5,
    variants: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Pairs of views per item. [default: 32; 8 above 1,000,000 items]"),
    ] = None,
    measure: Annotated[Measure, typer.Option(help="What correlated goes by.")] = Measure.MI_NORMALISED,
    id_view: Annotated[
        IdView,
        typer.Option(
            help="The item id, whatever the transform. feature: one among the others; random: kept in one of the two "
            "views, by coin; hidden: in both; kept: in both."
        ),
    ] = IdView.RANDOM,
    seed: Annotated[
        int, typer.Option(min=0, max=2**62, help="Of all draws; a variant's do not depend on --variants.")
    ] = 1,
    force: options.ForceOption = False,
) -> None:
    """Build pairs of views of every item: a transform hides whole features, then value dropout drops single values.

    Reads items, features and mutual_information; writes views.parquet: per item and variant one mask for each view, bit
    j (least significant first) set where the item's j-th value is kept. A variant has one seed feature (correlated).
    And per item and variant a neighbour, another item that shares a value which few others bear.
    """
    settings = locals()
    with artifacts.Job(run, "build-views", settings, reads=READS, writes=WRITES, force=force) as job:
        if job.up_to_date:
            return
        table = models.table(job, "items.parquet", job.read("features.parquet").filter(side="item"))
        job.write_parts("views.parquet", drawn(job, table, settings))
        features = len(_hideable(table, id_view))
        drawn_each = variants_of(settings, table.rows)
        job.done(f"{table.rows:,} items, {features} features, {drawn_each} pairs of views, {transform}")


def variants_of(settings: dict[str, Any], items: int) -> int:
    """Give how many pairs of views an item has: what is asked for, or what so many items leave room for."""
    if settings["variants"] is not None:
        return int(settings["variants"])
    return VARIANTS if items <= MANY_ITEMS else VARIANTS_OF_MANY


def drawn(job: reader.Reader, table: "EncodedTable", settings: dict[str, Any]) -> "Iterator[pl.DataFrame]":
    """Draw the views of the catalogue, which is this table, a block of items at a time, as views.parquet has them."""
    import polars as pl

    from ssl_recall import features, neighbours, views

    transform, id_view = Transform(settings["transform"]), IdView(settings["id_view"])
    ids = job.read("items.parquet", ["item_id"])["item_id"]
    hideable = _hideable(table, id_view)
    similarity = None
    if transform is Transform.CORRELATED:
        similarity = _similarity(job.read("mutual_information.parquet"), hideable, settings["measure"])
    seed, variants = settings["seed"], variants_of(settings, table.rows)
    seeds: list[int | None] = [None] * variants
    if similarity is not None:
        seeds = [views.seed_feature(seed, variant, len(hideable)) for variant in range(variants)]

    shared = neighbours.sharing(table)

    def block(number: int) -> pl.DataFrame:
        low, high = number * views.BLOCK, min((number + 1) * views.BLOCK, table.rows)
        own, frames = features.rows_of(table, low, high), []
        for variant, grown_from in enumerate(seeds):
            rng = views.generator(seed, variant, number)
            kept = _hide(transform, rng, own.rows, len(hideable), settings["mask_rate"], similarity, grown_from)
            if len(hideable) < len(table.names):
                kept = _with_id(id_view, rng, kept)
            masks = views.drop_values(rng, kept, own, settings["value_dropout"])
            keep_a, keep_b = (views.pack(mask, own.offsets, len(table.names)) for mask in masks)
            seed_name = None if grown_from is None else hideable[grown_from]
            beside = neighbours.draw(neighbours.generator(seed, variant, number), shared, own, low)
            frames.append(_frame(ids[low:high], variant, seed_name, keep_a, keep_b, beside))
        return pl.concat(frames).sort("row", "variant").drop("row")

    return map(block, range(max(-(-table.rows // views.BLOCK), 1)))


def _hideable(table: "EncodedTable", id_view: IdView) -> list[str]:
    """Name the features that the transform may hide: all of them, or all but the id."""
    kinds = zip(table.names, table.kinds, strict=True)
    return [name for name, kind in kinds if kind != "id" or id_view is IdView.FEATURE]


def _similarity(matrix: "pl.DataFrame", hideable: list[str], measure: str) -> "NDArray[np.float64]":
    """Give the (K, K) measure of the features that can be hidden; refuse when there is none."""
    from ssl_recall import views

    if not hideable:
        raise SettingsError("--transform correlated needs a feature beside the item id; take dropout", "NO_FEATURES")
    known = set(matrix["feature_a"])
    missing = [name for name in hideable if name not in known]
    if missing:
        raise SettingsError(
            f"mutual_information.parquet does not know {', '.join(missing)}; run: ssl-recall compute-mi --id include, "
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
    """Stage 1, the transform: (N, K) masks of the features that can be hidden."""
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
    """Put the id, always the first feature, before the others."""
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

    from ssl_recall.neighbours import NONE

    columns = {"item_id": item_ids, "keep_a": keep_a, "keep_b": keep_b, "neighbour_index": beside}
    return pl.DataFrame(columns).select(
        pl.int_range(pl.len()).alias("row"),
        "item_id",
        pl.lit(variant, pl.Int16).alias("variant"),
        pl.lit(seed_name, pl.String).alias("seed_feature"),
        "keep_a",
        "keep_b",
        pl.col("neighbour_index").replace(NONE, None),
    )
