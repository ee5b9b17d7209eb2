"""Measure recall@50 of a slice's test pairs among the items of that slice: a page of only new, or only niche, items.

    python benchmarks/quality/shelves.py --runs runs/ml-1m-seed-1 runs/ml-1m-seed-2

If a few items fill most of every list, recall over the whole catalogue does not measure the others; this does. Each
run folder is one seed of training. All have the same split and the exported vectors of both models (`train`,
`train --no-ssl`, `export-embeddings` with and without `--no-ssl`). The interval of the difference is 95 % over queries
and seeds. `chance` is the recall of random lists from the items of the slice, without the query's earlier items.
"""

import argparse
from itertools import combinations
from pathlib import Path

import torch

from ssl_recall.evaluation import intervals, metrics, retrieval
from ssl_recall.evaluation.comparison import Truth
from stages import evaluate
from stages.learning import hardware
from stages.learning.held_out import truth_of
from stages.run_folder import reader

K = 50
MODELS = {"no-ssl": "no-ssl/", "ssl": ""}
READS = ("train.parquet", "validation.parquet", "test.parquet", "popularity.parquet")
FILES = tuple(f"{folder}{side}_embeddings.parquet" for folder in MODELS.values() for side in ("item", "query"))


def found_among(items: torch.Tensor, queries: torch.Tensor, truth: Truth, shelf: torch.Tensor) -> torch.Tensor:
    """Return for each test pair on the shelf (N,) whether its item is among the K nearest of the shelf: (P',)."""
    barred = torch.where(shelf, 0.0, -9.0)[:, None]
    asked = torch.cat([queries[truth.queries], torch.ones(len(truth.queries), 1)], 1)
    lists, _ = retrieval.top_k(asked, torch.cat([items, barred], 1), K, truth.known)
    kept = shelf[truth.pair_items]
    return metrics.hits(lists, truth.pair_rows[kept], truth.pair_items[kept]).any(1).double()


def chance(truth: Truth, shelf: torch.Tensor, rows: torch.Tensor) -> float:
    """Return the mean over test pairs of K / n, where n items of the shelf are open to the query (row in `rows`)."""
    offsets, taken = truth.known
    of_query = torch.arange(len(truth.queries)).repeat_interleave(offsets.diff())
    gone = torch.bincount(of_query[shelf[taken]], minlength=len(truth.queries))
    return (K / (shelf.sum() - gone[rows]).double()).clamp(max=1).mean().item()


def split_of(truth: Truth) -> list[torch.Tensor]:
    """Return the tensors that must be equal in all runs."""
    return [truth.pair_rows, truth.pair_items, truth.queries, *truth.known, truth.counts]


def main() -> None:
    """Print a row of Markdown for each slice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    hardware.use(1, torch.device("cpu"))
    vectors, truths = [], []
    for run in options.runs:
        with reader.reading(run, [*READS, *FILES]) as job:
            if not evaluate.is_fair(job):
                parser.error(f"{run}: its two models have other settings")
            truths.append(truth_of(job))
            vectors.append([torch.from_numpy(job.read(file)["embedding"].to_numpy().copy()) for file in FILES])
    truth = truths[0]
    if any(not torch.equal(a, b) for other in truths for a, b in zip(split_of(truth), split_of(other), strict=True)):
        parser.error("the runs have different splits")
    if any(torch.equal(a[2], b[2]) for a, b in combinations(vectors, 2)):
        parser.error("two runs have the same vectors")
    print("| slice | items | pairs | chance | no-ssl | ssl | difference |\n" + "| --- |" + " ---: |" * 6)
    for name, shelf in metrics.slices(truth.counts).items():
        rows = truth.pair_rows[shelf[truth.pair_items]]
        if not len(rows):
            continue
        hit = torch.stack(
            [torch.stack([found_among(i, q, truth, shelf) for i, q in (of[:2], of[2:])]) for of in vectors]
        )  # (seeds, 2, P')
        gained = torch.zeros(len(vectors), len(truth.queries), 1, dtype=torch.float64)
        gained.index_add_(1, rows, (hit[:, 1] - hit[:, 0])[..., None])
        asked = torch.bincount(rows, minlength=len(truth.queries)).double()[:, None]
        low, high = (end.item() for end in intervals.over_seeds(gained, asked))
        old, new = hit.mean((0, 2)).tolist()
        counted = f"{int(shelf.sum()):,} | {len(rows):,} | {chance(truth, shelf, rows):.3f}"
        print(
            f"| {name} | {counted} | {old:.3f} | {new:.3f} | {new - old:+.3f} [{low:+.3f}, {high:+.3f}] |", flush=True
        )


if __name__ == "__main__":
    main()
