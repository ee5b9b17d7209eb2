"""Measure what is recalled of the test pairs, for the head, the tail and the cold items, next to the baselines."""

import json
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import artifacts, console, contract, metrics_table, models, options, planning, processor, reader
from . import config as config_file
from .errors import InputError

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

READS = (
    "train.parquet",
    "validation.parquet",
    "test.parquet",
    "popularity.parquet",
    "item_embeddings.parquet",
    "query_embeddings.parquet",
)
OPTIONAL = ("no-ssl/item_embeddings.parquet", "no-ssl/query_embeddings.parquet")
WRITES = ("metrics.parquet",)
LENGTHS = (10, 50, 100)  # of the lists
PER_QUERY = ("recall_per_query", "map", "ndcg")


@dataclass(frozen=True)
class Truth:
    """The held-out pairs, what the queries are known to have taken, and how often each item was."""

    pair_rows: "Tensor"  # (P,) int64, ascending, below Q: the row of each pair's query among those that have a pair
    pair_items: "Tensor"  # (P,) int64
    queries: "Tensor"  # (Q,) int64 rows of queries.parquet
    known: "tuple[Tensor, Tensor]"
    counts: "Tensor"  # (N,) int64


def evaluate(
    run: options.RunOption = options.DEFAULT_RUN,
    config: options.ConfigOption = None,
    k: Annotated[
        list[int] | None, typer.Option(min=1, max=100_000, help="Length of the lists; repeatable. [default: 10 50 100]")
    ] = None,
    head_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the items that are the head.")
    ] = metrics_table.HEAD_SHARE,
    bootstrap: Annotated[int, typer.Option(min=10, help="Draws of queries for the 95 % intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Of the bootstrap.")] = 1,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Processor threads.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout in place of the table.")] = False,
    force: options.ForceOption = False,
) -> None:
    """Rank the whole catalogue for every test query by plain cosine, and compare with most-popular and with no SSL.

    Reads train, validation, test, popularity and the exported vectors (RUN/no-ssl/ too, where it was trained); writes
    metrics.parquet: recall, map, ndcg by slice with 95 % intervals, coverage, mean popularity. What a query took before
    the test is not recalled again.
    """
    settings = locals() | {"k": sorted(set(k or LENGTHS))}
    job = artifacts.Job(run, "evaluate", settings, reads=READS, optional=OPTIONAL, writes=WRITES, force=force)
    with job:
        if not job.up_to_date:
            processor.use(threads, models.device_of("cpu"))
            truth = truth_of(job)
            frame = _measure(truth, _recalled(job, truth, max(settings["k"]), baseline=is_fair(job)), settings)
            job.write("metrics.parquet", frame)
            job.done(f"{len(truth.pair_items):,} test pairs of {len(truth.queries):,} queries")
    if planning.is_planning():
        return
    with reader.reading(run, WRITES, config) as published:
        frame = published.read("metrics.parquet")
    if as_json:
        console.out.print(json.dumps(frame.to_dicts()), soft_wrap=True)
    else:
        metrics_table.show(frame, head_share)


def truth_of(job: reader.Reader) -> Truth:
    """Read the held-out pairs and what came before them."""
    import polars as pl
    import torch

    test = job.read("test.parquet", ["query_index", "item_index"])
    if test.is_empty():
        raise InputError("test.parquet: empty, nothing to measure; raise --test-share of prepare", "TOO_FEW")
    counts = job.read("popularity.parquet")["count"].to_torch()
    held = models.log_of(test, int(test["query_index"].max() or 0) + 1)  # type: ignore[arg-type]
    queries, rows = held.queries.unique(return_inverse=True)
    earlier = [job.read(name, ["query_index", "item_index"]) for name in ("train.parquet", "validation.parquet")]
    before = pl.concat([log.filter(pl.col("query_index").is_in(queries.tolist())) for log in earlier])
    renumbered = torch.searchsorted(queries, before["query_index"].to_torch().long())
    order = torch.argsort(renumbered, stable=True)
    lengths = torch.bincount(renumbered, minlength=len(queries))
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    taken = before["item_index"].to_torch().long()[order]
    return Truth(rows, held.items, queries, (offsets, taken), counts)


def is_fair(job: reader.Reader) -> bool:
    """Tell whether the model without SSL, where there is one, was trained with the settings of the other."""
    with_ssl, without = (
        job.manifest["stages"].get(stage, {}).get("settings", {}) for stage in contract.TRAININGS.values()
    )
    differ = [
        name
        for name in sorted(with_ssl.keys() & without.keys() - {"ssl", "device", "threads"})
        if without[name] != with_ssl[name]
    ]
    if differ and all(job.has(file) for file in OPTIONAL):
        said = [f"{name} {without[name]} and {with_ssl[name]}" for name in differ]
        flags = "".join(f" {flag}" for name in differ for flag in config_file.flags(name, with_ssl[name]))
        console.warn(
            f"the model without SSL was trained with other settings ({', '.join(said)}) and is left out; to compare "
            f"run: ssl-recall train --no-ssl{flags}{job.flags}, then export-embeddings --no-ssl"
        )
    return not differ


def _recalled(job: reader.Reader, truth: Truth, k: int, *, baseline: bool) -> "dict[str, Tensor]":
    """Give each model's lists for the test queries: name -> (Q, k) item rows."""
    from ssl_recall import retrieval

    lists = {"most-popular": retrieval.most_popular(truth.counts, len(truth.queries), k, truth.known)}
    folders = {"no-ssl": contract.NO_SSL, "ssl": ""}
    for name, folder in folders.items():
        if folder and not (baseline and all(job.has(file) for file in OPTIONAL)):
            continue
        items, queries = (_vectors(job.read(f"{folder}{side}_embeddings.parquet")) for side in ("item", "query"))
        lists[name], _ = retrieval.top_k(queries[truth.queries], items, k, truth.known)
    return lists


def _measure(truth: Truth, recalled: "dict[str, Tensor]", settings: dict[str, Any]) -> "pl.DataFrame":
    """Lay out metrics.parquet: every model, then the differences of every two of them on the same queries."""
    import polars as pl
    import torch

    from ssl_recall import metrics

    members = metrics.slices(truth.counts, settings["head_share"])
    keys, columns = [], []
    for name, lists in recalled.items():
        found = metrics.hits(lists, truth.pair_rows, truth.pair_items)
        for part, inside in members.items():
            kept = inside[truth.pair_items]
            for k in settings["k"]:
                keys += [(name, part, metric, k) for metric in ("recall", *PER_QUERY)]
                columns += _sums(found[kept], truth.pair_rows[kept], len(truth.queries), k)
    sums, trials = torch.stack([s for s, _ in columns], 1), torch.stack([t for _, t in columns], 1)
    at = {key: column for column, key in enumerate(keys)}
    for old, new in combinations(recalled, 2):
        pairs = [(key[1:], at[key], at[(new, *key[1:])]) for key in keys if key[0] == old]
        keys += [(f"{new} - {old}", *rest) for rest, _, _ in pairs]
        sums = torch.cat([sums, torch.stack([sums[:, b] - sums[:, a] for _, a, b in pairs], 1)], 1)
        trials = torch.cat([trials, trials[:, [a for _, a, _ in pairs]]], 1)
    value, n = sums.sum(0) / trials.sum(0), trials.sum(0)
    low, high = metrics.bootstrap_intervals(
        sums, trials, settings["bootstrap"], torch.Generator().manual_seed(settings["seed"])
    )
    table = [value.tolist(), low.tolist(), high.tolist(), n.long().tolist()]
    rows = [(*key, *numbers) for key, *numbers in zip(keys, *table, strict=True)]
    for name, lists in recalled.items():
        for k in settings["k"]:
            share = metrics.coverage(lists, k, len(truth.counts))
            rows.append((name, "all", "coverage", k, share, None, None, len(truth.counts)))
            mean = metrics.mean_popularity(lists, k, truth.counts)
            rows.append((name, "all", "mean_popularity", k, mean, None, None, len(truth.queries)))
    schema = (
        {"model": pl.String, "slice": pl.String, "metric": pl.String, "k": pl.Int32}
        | dict.fromkeys(("value", "low", "high"), pl.Float64)
        | {"n": pl.Int64}
    )
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("value", "low", "high").fill_nan(None))


def _sums(found: "Tensor", pair_rows: "Tensor", queries: int, k: int) -> "list[tuple[Tensor, Tensor]]":
    """Give each query's share of every metric's numerator and denominator: (Q,), (Q,) for recall and PER_QUERY."""
    import torch

    from ssl_recall import metrics

    zeros = torch.zeros(queries, dtype=torch.float64)
    hits = zeros.index_add(0, pair_rows, metrics.pair_recall(found, k))
    columns = [(hits, torch.bincount(pair_rows, minlength=queries).double())]
    asked, values = metrics.per_query(found, pair_rows, k)
    one = zeros.index_fill(0, asked, 1.0)
    return columns + [(zeros.index_copy(0, asked, values[metric]), one) for metric in PER_QUERY]


def _vectors(frame: "pl.DataFrame") -> "Tensor":
    import torch

    return torch.from_numpy(frame["embedding"].to_numpy().copy())
