"""Print what is in benchmarks/results as Markdown: test recall@50 by slice, a row a model or an arm.

python benchmarks/quality/table.py

quality.parquet is what score.py measured; ablation-DATA-FRACTION.parquet the ablation.parquet of a run folder.
"""

import argparse
from pathlib import Path

import polars as pl

from stages import ablation_table

SLICES = ("all", "head", "tail", "cold", "warm-tail")


def main() -> None:
    """Give each data set and share of its training interactions its tables; seeds are averaged."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    folder = parser.parse_args().results
    for path in sorted(folder.glob("ablation-*.parquet")):
        frame, (data, fraction) = pl.read_parquet(path), path.stem.removeprefix("ablation-").rsplit("-", 1)
        seeds = frame["seeds"].drop_nulls().max()
        print(f"\n### Arms: {data}, {float(fraction):.0%} of the training interactions, {seeds} seeds\n")
        print(ablation_table.markdown(frame, ""))
    rows = pl.read_parquet(folder / "quality.parquet")
    for (data, fraction), part in rows.group_by("data", "fraction", maintain_order=True):
        pairs = dict(part.unique("slice").select("slice", "n").iter_rows())
        print(f"\n### Libraries: {data}, {fraction:.0%} of the training interactions\n")
        print("| model | " + " | ".join(f"{name} ({pairs[name]:,})" for name in SLICES) + " | picked |")
        print("| --- |" + " --- |" * (len(SLICES) + 1))
        for (model, settings), found in part.group_by("model", "settings", maintain_order=True):
            mean = dict(found.group_by("slice").agg(pl.col("recall_at_50").mean()).iter_rows())
            name = f"{model}, {settings}" if settings else model
            figures = " | ".join(f"{mean[part]:.3f}" for part in SLICES)
            print(f"| {name} | {figures} | {', '.join(found['trial'].unique(maintain_order=True))} |")


if __name__ == "__main__":
    main()
