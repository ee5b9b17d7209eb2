"""Average the figures of models over training seeds, with intervals over seeds and queries."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import polars as pl
import torch
from torch import Tensor

from . import comparison, intervals, metrics
from .comparison import Truth

KEY = ("model", "slice", "metric", "k")
METRICS = ("recall", *comparison.PER_QUERY)


def average_seeds(
    frame: pl.DataFrame,  # of comparison.compare_models, on one seed
    truth: Truth,
    lists: Mapping[str, Tensor],  # model -> (Q, K) item rows of that seed
    ranks: Mapping[str, Sequence[Tensor]],  # model -> for each further seed (P,) int32 ranks from 1, 0 beyond the list
    ks: Sequence[int],  # those to average
    head_share: float,
    baselines: Collection[str] = (),  # models without seeds
) -> pl.DataFrame:
    """Replace the figures of the models in `ranks`, and their differences, by means over seeds.

    Seed n of a model is paired with seed n of another, and each seed with the one list of a baseline. The intervals are
    those of `intervals.over_seeds`. Differences to a baseline stay in recall alone. Coverage, mean popularity, and the
    difference to a model of one seed stay those of one seed.
    """
    if not ranks or not ks:
        return frame
    places = {
        name: [metrics.ranks(own, truth.pair_rows, truth.pair_items), *ranks.get(name, ())]
        for name, own in lists.items()
    }
    assert len({len(own) for name, own in places.items() if name in ranks}) == 1, "all models have the same seeds"
    rows: list[tuple[Any, ...]] = []
    for part, kept in comparison.slices_of_pairs(truth, head_share).items():
        pairs, asked = comparison.trials_of(truth, kept)
        trials = torch.stack([pairs] + [asked] * len(comparison.PER_QUERY), 1)  # (Q, 4)
        for k in ks:
            sums = {name: _sums(truth, own, kept, k) for name, own in places.items()}
            for name, found in _compared(sums, ranks, baselines):
                value = (found.sum(1) / trials.sum(0)).mean(0)
                ends = intervals.over_seeds(comparison.by_query(truth, found), comparison.by_query(truth, trials))
                if name in ranks:  # a share, no difference
                    ends = (ends[0].clamp(min=0), ends[1].clamp(max=1))
                columns = zip(METRICS, *(x.tolist() for x in (value, *ends, trials.sum(0))), strict=True)
                rows += [(name, part, metric, k, *figures, len(found), int(n)) for metric, *figures, n in columns]
    averaged = pl.DataFrame(rows, schema=frame.schema, orient="row")
    averaged = averaged.with_columns(pl.col(comparison.FIGURES).fill_nan(None)).join(frame, on=KEY, how="semi")
    order = frame.select(KEY).with_row_index("place")
    both = pl.concat([frame.join(averaged, on=KEY, how="anti"), averaged])
    return order.join(both, on=KEY).sort("place").drop("place")


def _sums(truth: Truth, places: Sequence[Tensor], kept: Tensor, k: int) -> Tensor:
    """Sum each list's numerator of each metric, by seed: (S, Q, 4)."""
    rows, at = truth.pair_rows[kept], torch.arange(1, k + 1)
    found = [place[kept][:, None] == at for place in places]
    return torch.stack([torch.stack(comparison.sums_by_query(one, rows, len(truth.queries), k), 1) for one in found])


def _compared(
    sums: Mapping[str, Tensor], models: Collection[str], baselines: Collection[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the sums of each model with further seeds, and of its difference to other such models and to baselines."""
    for name in models:
        yield name, sums[name]
        for other in sums:
            if other != name and (other in models or other in baselines):
                yield f"{name} - {other}", sums[name] - sums[other]
