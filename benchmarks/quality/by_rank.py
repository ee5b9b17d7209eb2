"""Compute ndcg@k with and without SSL from the rank files of an ablation: recall@50 ignores the order of a list.

    python benchmarks/quality/by_rank.py --run runs/debian --k 10

Reads the rank files of `ssl-recall ablate`, one for each arm and seed. The interval of the difference is 95 % over
queries and seeds. All queries have equal weight, whatever their number of test pairs.
"""

import argparse
from pathlib import Path

import polars as pl
import torch

from ssl_recall.evaluation import intervals, metrics
from stages.experiments import arms
from stages.learning.arm_ranks import NAME
from stages.run_folder.layout import ABLATION_FOLDER


def main() -> None:
    """Print a row of Markdown for each slice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--k", type=int, default=10, help="List length, at most the depth of the rank files, 100.")
    options = parser.parse_args()
    counts = pl.read_parquet(options.run / "popularity.parquet")["count"].to_torch()
    files = {}
    for path in sorted((options.run / ABLATION_FOLDER).glob("*.parquet")):
        if (match := NAME.fullmatch(path.name)) and match["arm"] in (arms.BASE, arms.OWN):
            if (match["arm"], match["seed"]) in files:
                parser.error(
                    f"{options.run / ABLATION_FOLDER}: several files of {match['arm']} and seed {match['seed']}"
                )
            files[match["arm"], match["seed"]] = pl.read_parquet(path)
    seeds = sorted({seed for _, seed in files if {(arms.BASE, seed), (arms.OWN, seed)} <= files.keys()})
    if not seeds:
        parser.error(f"{options.run / ABLATION_FOLDER}: no seed with ranks of {arms.BASE} and of {arms.OWN}")
    pairs = files[arms.OWN, seeds[0]]
    rows, items = pairs["query_index"].to_torch().long(), pairs["item_index"].to_torch().long()
    print(f"| ndcg@{options.k} | no-ssl | ssl | difference, {len(seeds)} seeds |\n| --- | ---: | ---: | ---: |")
    for name, members in metrics.slices(counts).items():
        kept = members[items]
        found = {}
        for arm in (arms.BASE, arms.OWN):
            ranks = torch.stack([files[arm, seed]["rank"].fill_null(0).to_torch()[kept] for seed in seeds])
            hit = ranks[..., None] == torch.arange(1, options.k + 1)
            found[arm] = torch.stack([metrics.per_query(of, rows[kept], options.k)[1]["ndcg"] for of in hit])
        gained = found[arms.OWN] - found[arms.BASE]  # (seeds, queries)
        low, high = intervals.over_seeds(gained[..., None], torch.ones(gained.shape[1], 1, dtype=torch.float64))
        old, new = found[arms.BASE].mean(), found[arms.OWN].mean()
        print(f"| {name} | {old:.3f} | {new:.3f} | {new - old:+.3f} [{low.item():+.3f}, {high.item():+.3f}] |")


if __name__ == "__main__":
    main()
