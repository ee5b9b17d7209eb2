"""The lists of the simple baselines for the test queries: which ones to compute, and their settings."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from stages.run_folder import layout, memory_floor, reader
from stages.terminal import console
from stages.terminal.errors import SettingsError

from . import training_inputs

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sp
    from numpy.typing import NDArray
    from torch import Tensor

    from ssl_recall.baselines.costs import Cost
    from ssl_recall.baselines.ranking import Asked
    from ssl_recall.baselines.selection import HeldOut
    from ssl_recall.evaluation.comparison import Truth

READS = (layout.FEATURES, layout.ITEMS, layout.QUERIES)
SECONDS = 40.0  # a baseline with a larger estimate runs only when asked for
VALIDATION_QUERIES = 5000


class Baseline(StrEnum):
    """A simple baseline; `auto` is every one that takes seconds, `none` is most-popular alone."""

    AUTO = "auto"
    NONE = "none"
    RECENT_POPULAR = "recent-popular"
    ITEM_KNN = "item-knn"
    EASE = "ease"
    CONTENT_KNN = "content-knn"
    ALS = "als"


NAMES = tuple(Baseline)[2:]
BY_DEFAULT = NAMES[:-1]


@dataclass(frozen=True)
class Data:
    """What a baseline learns from and is asked for. All columns are items in the order of popularity."""

    job: reader.Reader
    log: "sp.csr_array"  # (Q, N) training interactions
    test: "Asked"  # the test queries, their histories from training and validation
    held_out: "HeldOut"  # validation pairs, their histories from training
    items: "NDArray[np.int64]"  # (N,) the item of each column
    columns: "NDArray[np.int64]"  # (N,) the column of each item
    seed: int
    threads: int


@dataclass(frozen=True)
class Attempt:
    """A baseline that can be fitted: its estimated cost, and the fit of each setting."""

    cost: "Cost"
    settings: Sequence[tuple[str, Callable[[], Any]]]
    lists_of: Callable[[Any, "Asked", int], "NDArray[np.int64]"]


def lists_of_baselines(
    job: reader.Reader, truth: "Truth", k: int, asked: Collection[Baseline], seed: int, threads: int
) -> "dict[str, Tensor]":
    """Fit the baselines, and return their lists for the test queries: name -> (Q, k) item rows, -1 for none.

    A baseline that does not fit in memory is left out with a warning. One that takes long, or that the data have no
    times or features for, is left out unless it is named. Raises SettingsError if a named one is impossible.
    """
    import numpy as np
    import torch

    from ssl_recall.baselines import selection
    from ssl_recall.evaluation.retrieval import NOTHING

    wanted = [name for name in NAMES if name in asked or (Baseline.AUTO in asked and name in BY_DEFAULT)]
    if not wanted:
        return {}
    if Baseline.ALS in wanted:
        _need_implicit()
    data = _read(job, truth, seed, threads)
    found: dict[str, Tensor] = {}
    for name in wanted:
        start = time.monotonic()
        try:
            attempt = _ATTEMPTS[name](data)
        except SettingsError:  # without times, or without features
            if name in asked:
                raise
            continue
        if not _is_affordable(name, attempt.cost, job.flags, asked=name in asked):
            continue
        chosen = selection.best_setting(attempt.settings, attempt.lists_of, data.held_out)
        lists = attempt.lists_of(chosen.model, data.test, k)
        found[name] = torch.from_numpy(np.where(lists == NOTHING, NOTHING, data.items[lists]))
        picked = f"{chosen.name}, recall@{selection.K} {chosen.recall:.3f} of validation; " if chosen.name else ""
        console.line(f"{'':<26} {name}: {picked}{time.monotonic() - start:.1f} s")
    return found


def _is_affordable(name: Baseline, cost: "Cost", flags: str, *, asked: bool) -> bool:
    """Tell whether a baseline fits in memory and, unless it is asked for, in SECONDS; otherwise print why not."""
    if cost.seconds > SECONDS and not asked:
        console.line(
            f"{name} takes about {max(round(cost.seconds / 60), 1):,} min and is left out; to include it run: "
            f"ssl-recall evaluate --baselines auto --baselines {name}{flags}"
        )
        return False
    gib, left = memory_floor.GIB, memory_floor.available()
    if cost.bytes > left:
        have = f"{cost.bytes / gib:,.1f} GiB of memory, there are {left / gib:,.1f}"
        console.warn(f"{name} needs about {have}; it is left out")
        return False
    return True


def _read(job: reader.Reader, truth: "Truth", seed: int, threads: int) -> Data:
    """Read the interactions, and put the items in the order of their popularity."""
    import numpy as np

    from ssl_recall.baselines import ranking, selection

    items, columns = ranking.popularity_order(truth.counts)
    train, validation = (
        training_inputs.read_interactions(job, name, job.rows(layout.QUERIES))
        for name in (layout.TRAIN, layout.VALIDATION)
    )
    log = ranking.interaction_matrix(train.offsets.numpy(), train.items.numpy(), columns)
    known = ranking.interaction_matrix(truth.known[0].numpy(), truth.known[1].numpy(), columns)
    held, taken = validation.queries.numpy(), validation.items.numpy()
    distinct = np.unique(held).astype(np.int64)
    drawn = np.sort(np.random.default_rng(seed).permutation(distinct)[:VALIDATION_QUERIES])
    kept = np.isin(held, drawn)
    asked = ranking.Asked(log[drawn], drawn)
    held_out = selection.HeldOut(asked, np.searchsorted(drawn, held[kept]), columns[taken[kept]])
    return Data(job, log, ranking.Asked(known, truth.queries.numpy()), held_out, items, columns, seed, threads)


def _recent_popular(data: Data) -> Attempt:
    import polars as pl
    import torch

    from ssl_recall.baselines import costs, recent_popular
    from ssl_recall.evaluation import retrieval

    if not data.job.has_column(layout.TRAIN, "timestamp"):
        raise SettingsError("--baselines recent-popular needs times: prepare with --timestamp", "NO_TIME")
    log = data.job.read(layout.TRAIN, ["item_index", "timestamp"])
    items, times = data.columns[log["item_index"].to_numpy()], log["timestamp"].cast(pl.Int64).to_numpy()

    def lists_of(weights: "NDArray[np.float64]", lists: "Asked", k: int) -> "NDArray[np.int64]":
        offsets, taken = (torch.from_numpy(part).long() for part in (lists.histories.indptr, lists.histories.indices))
        return retrieval.most_popular(torch.from_numpy(weights), len(lists.queries), k, (offsets, taken)).numpy()

    settings = [
        (
            f"half-life 1/{round(1 / share)} of the log's time",
            partial(recent_popular.weights, items, times, share, len(data.items)),
        )
        for share in recent_popular.SHARES
    ]
    return Attempt(costs.Cost(32.0 * len(times), 0.0), settings, lists_of)


def _item_knn(data: Data) -> Attempt:
    from ssl_recall.baselines import costs, item_knn, ranking

    settings = [(setting.name, partial(item_knn.fit, data.log, setting)) for setting in item_knn.SETTINGS]
    return Attempt(costs.of_item_knn(data.log, data.held_out, data.test), settings, ranking.recall_lists)


def _ease(data: Data) -> Attempt:
    from ssl_recall.baselines import costs, ease, ranking

    gram = cache(partial(ease.gram_of, data.log))
    settings = [(f"lambda {penalty:g}", partial(_fit_ease, gram, penalty)) for penalty in ease.PENALTIES]
    return Attempt(costs.of_ease(data.log, data.held_out, data.test), settings, ranking.recall_lists)


def _fit_ease(gram: "Callable[[], Tensor]", penalty: float) -> Any:
    from ssl_recall.baselines import ease

    return ease.fit(gram(), penalty)


def _content_knn(data: Data) -> Attempt:
    import polars as pl

    from ssl_recall.baselines import content_knn, costs, ranking

    features = data.job.read(layout.FEATURES)
    if features.filter((pl.col("side") == "item") & pl.col("kind").is_in(content_knn.KINDS)).is_empty():
        text = "--baselines content-knn needs a categorical or multi-valued feature of the items"
        raise SettingsError(text, "NO_FEATURES")
    items, queries = training_inputs.item_and_query_tables(data.job)
    cost = costs.of_content_values(len(items.codes) + len(queries.codes), items.rows)
    if cost.bytes > memory_floor.available():
        return Attempt(cost, [], ranking.recall_lists)
    codes = dict(features.select("vocabulary", "codes").iter_rows())
    model = content_knn.fit(items, queries, codes, data.items)
    return Attempt(costs.of_content_knn(model, data.test), [("", lambda: model)], ranking.recall_lists)


def _als(data: Data) -> Attempt:
    from ssl_recall.baselines import als, costs, ranking

    settings = [
        (f"alpha {setting.alpha:g}", partial(als.fit, data.log, setting, data.seed, data.threads))
        for setting in als.SETTINGS
    ]
    return Attempt(costs.of_als(data.log), settings, ranking.recall_lists)


def _need_implicit() -> None:
    """Raise SettingsError if implicit is not installed."""
    try:
        import implicit  # noqa: F401
    except ImportError:
        text = "--baselines als needs implicit; run: pip install 'implicit>=0.7.3'"
        raise SettingsError(text, "NO_IMPLICIT") from None


_ATTEMPTS: dict[Baseline, Callable[[Data], Attempt]] = {
    Baseline.RECENT_POPULAR: _recent_popular,
    Baseline.ITEM_KNN: _item_knn,
    Baseline.EASE: _ease,
    Baseline.CONTENT_KNN: _content_knn,
    Baseline.ALS: _als,
}
