"""Read a run folder's artifacts as tensors."""

from typing import TYPE_CHECKING

from ssl_recall.data.codes import CODE
from stages.run_folder import layout, reader
from stages.terminal.errors import InputError

from . import recency
from .popularity_settings import PopularitySettings
from .settings import TrainSettings

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from ssl_recall.data.features import EncodedTable
    from ssl_recall.data.interactions import Interactions
    from ssl_recall.data.packed_views import PackedViews
    from ssl_recall.evaluation.validation import HeldOut
    from ssl_recall.training.planner import TrainingData


TRAINING_READS = (
    layout.FEATURES,
    layout.ITEMS,
    layout.QUERIES,
    layout.TRAIN,
    layout.VALIDATION,
    layout.POPULARITY,
)


def load_training_inputs(
    job: reader.Reader,
    settings: TrainSettings,
    masks: "PackedViews | None" = None,
    weighted: PopularitySettings | None = None,
) -> tuple["TrainingData", "HeldOut"]:
    """Read the artifacts as tensors; `masks` replace the views of the run folder, `weighted` its p and log p.

    Raises InputError for too few interactions to train or validate.
    """
    import torch

    from ssl_recall.data.packed_views import pack_views
    from ssl_recall.evaluation import metrics, validation
    from ssl_recall.losses import mixture
    from ssl_recall.training import sampling
    from ssl_recall.training.planner import TrainingData

    items, queries = item_and_query_tables(job)
    if settings.history and job.has_column(layout.TRAIN, "timestamp"):
        log = interactions_of(job.read(layout.TRAIN, ["query_index", "item_index", "timestamp"]), queries.rows)
    else:
        log = read_interactions(job, layout.TRAIN, queries.rows)
    own = weighted or recency.settings_of(job)
    weights = recency.weights_of(job, own)
    rows = len(log.items) if weights is None else sampling.rows_per_epoch(weights)
    if rows < 2:
        drawn_by = " an epoch, by half_life and window of compute-popularity" if weights is not None else ""
        raise InputError(f"{layout.TRAIN}: {rows} interactions{drawn_by}; training needs at least two", "TOO_FEW")
    popularity = job.read(layout.POPULARITY)
    counts = popularity["count"].to_torch()
    log_p = popularity["log_p"].to_torch().float() if own == recency.settings_of(job) else _log_p(job, own, counts)
    if settings.ssl and masks is None:
        stored = job.parts(layout.VIEWS, ["variant", "keep_a", "keep_b", "neighbour_index"], 2**20)
        variants = job.rows(layout.VIEWS) // max(items.rows, 1)
        masks = pack_views(stored, items.offsets, len(items.names), variants)
    held_out = read_interactions(job, layout.VALIDATION, queries.rows)
    if not len(held_out.items):
        raise InputError(
            f"{layout.VALIDATION}: empty, no pairs to pick the epoch by; raise --validation-share", "TOO_FEW"
        )
    slices = metrics.slices(counts)
    drawn = sampling.torch_generator(settings.seed, sampling.VALIDATION)
    sample = validation.sample(held_out.queries, held_out.items, slices, settings.validation_queries, drawn)
    select = str(settings.select_on)
    if select in sample.slices and not sample.slices[select].any():
        raise InputError(
            f"{layout.VALIDATION}: no {select} item to pick the epoch by; choose another --select-on", "TOO_FEW"
        )
    pool = sampling.negative_pool(counts, settings.cold_negative_rate)
    batch, extra = min(settings.batch_size, rows), settings.further_negatives
    log_q = mixture(log_p, pool.probabilities(len(counts)), batch, extra)
    corrected = log_q if settings.logq else torch.zeros_like(log_q)
    return TrainingData(items, queries, log, corrected, pool, masks, weights), sample


def _log_p(job: reader.Reader, settings: PopularitySettings, counts: "Tensor") -> "Tensor":
    """Compute log p as compute-popularity does, with other settings: (N,) float32."""
    import torch

    from ssl_recall.popularity import log_popularity

    found = recency.weighted_counts(job, settings, len(counts)) if settings.by_age else counts.numpy()
    return torch.from_numpy(log_popularity(found, settings.unseen_count)[1]).float()


def item_and_query_tables(job: reader.Reader) -> tuple["EncodedTable", "EncodedTable"]:
    """Read the tables of items and queries as tensors."""
    features = job.read(layout.FEATURES)
    return encoded_side(job, layout.ITEMS, features.filter(side="item")), encoded_side(
        job, layout.QUERIES, features.filter(side="query")
    )


def first_rows(job: reader.Reader) -> tuple["EncodedTable", "EncodedTable"]:
    """Read one row of the items and one of the queries: enough to build a model."""
    from ssl_recall.data.features import encoded_table

    features = job.read(layout.FEATURES)
    sides = ((layout.ITEMS, "item"), (layout.QUERIES, "query"))
    described = [(name, features.filter(side=side)) for name, side in sides]
    items, queries = (encoded_table(next(job.parts(name, columns_of(own), 1)), own) for name, own in described)
    return items, queries


def columns_of(features: "pl.DataFrame") -> list[str]:
    """Name the columns of a table that become tensors: codes, and the vectors of dense features."""
    codes = [feature + CODE for feature in features["feature"]]
    return codes + features.filter(kind="dense")["feature"].to_list()


def encoded_side(job: reader.Reader, name: str, features: "pl.DataFrame") -> "EncodedTable":
    """Read the table of one side, items or queries, as tensors."""
    from ssl_recall.data.features import encoded_table

    return encoded_table(job.read(name, columns_of(features)), features)


def read_interactions(job: reader.Reader, name: str, query_count: int) -> "Interactions":
    """Read a table of interactions without times, in batches of rows; it takes eight bytes per interaction."""
    import numpy as np
    import torch

    from ssl_recall.data.interactions import index_interactions

    rows = job.rows(name)
    columns = {side: np.empty(rows, np.int32) for side in ("query_index", "item_index")}
    for side, column in columns.items():
        at = 0
        for batch in job.columns(name, side):
            column[at : at + len(batch)] = batch
            at += len(batch)
    queries, items = (torch.from_numpy(column) for column in columns.values())
    return index_interactions(queries, items, query_count)


def interactions_of(frame: "pl.DataFrame", query_count: int) -> "Interactions":
    """Index a table of interactions, such as train.parquet, by query, in the order of its timestamps, if any."""
    import polars as pl
    import torch

    from ssl_recall.data.interactions import index_interactions

    frame = frame.sort("query_index", *[name for name in ("timestamp",) if name in frame.columns], "item_index")
    times = (
        torch.from_numpy(frame["timestamp"].cast(pl.Int64).to_numpy().copy()) if "timestamp" in frame.columns else None
    )
    return index_interactions(
        torch.from_numpy(frame["query_index"].cast(pl.Int64).to_numpy().copy()),
        torch.from_numpy(frame["item_index"].cast(pl.Int64).to_numpy().copy()),
        query_count,
        times,
    )


def interactions_before_test(job: reader.Reader, query_count: int) -> "Interactions":
    """Read the training and validation interactions, with their times if there are any: the history of a test query."""
    import polars as pl

    timed = ["timestamp"] if job.has_column(layout.TRAIN, "timestamp") else []
    columns = ["query_index", "item_index", *timed]
    seen = [job.read(name, columns) for name in (layout.TRAIN, layout.VALIDATION)]
    return interactions_of(pl.concat(seen), query_count)
