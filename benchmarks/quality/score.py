"""Measure the recall of any vectors on a prepared run folder, with the code of `train` and `evaluate`.

    python benchmarks/quality/score.py --run runs/debian --data debian --name tfrs --vectors runs/tfrs
    python benchmarks/quality/score.py --run runs/debian --data debian --name ours --vectors runs/debian
    python benchmarks/quality/score.py --run runs/debian --data debian --name most-popular

--vectors is a folder of trials, each one epoch of one setting: TRIAL.npz with version, items (N, D) and queries (Q, D)
in the order of the tables of the run folder. Or it is a folder of `export-embeddings`, which is one trial. The score is
the dot product. The trial with the best mean of head and tail recall@50 on the validation pairs is measured on the test
pairs; the other .npz files are deleted. Its rows replace those of the same data, fraction, model, seed and settings.
Without --vectors, most-popular is measured.
"""

import argparse
import datetime
import math
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl
import torch

from ssl_recall.evaluation import comparison, metrics, retrieval, validation
from ssl_recall.training import sampling
from stages.learning import hardware, training_inputs
from stages.learning.held_out import truth_of
from stages.run_folder import reader

READS = ("train.parquet", "validation.parquet", "test.parquet", "popularity.parquet", "queries.parquet")
KEY = ["data", "fraction", "model", "seed", "settings"]
Vectors = tuple[torch.Tensor, torch.Tensor]  # (Q, D), (N, D)


def trials(folder: Path) -> Iterator[tuple[str, str, Vectors]]:
    """Yield (trial, version, vectors) for each trial in the folder."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            queries, items = (torch.from_numpy(file[name].astype(np.float32)) for name in ("queries", "items"))
            yield path.stem, str(file["version"]), (queries, items)
    if (folder / "item_embeddings.parquet").exists():
        queries, items = (
            torch.from_numpy(pl.read_parquet(folder / f"{side}_embeddings.parquet")["embedding"].to_numpy().copy())
            for side in ("query", "item")
        )
        epoch = pl.read_parquet(folder / "training.parquet").filter("best")["epoch"][0]
        yield f"epoch={epoch}", version("ssl-recall"), (queries, items)


def held_out(job: reader.Reader, counts: torch.Tensor, queries: int) -> validation.HeldOut:
    """Draw the same validation pairs as `train` with its default settings."""
    log = training_inputs.read_interactions(job, "validation.parquet", queries)
    drawn = sampling.torch_generator(1, sampling.VALIDATION)
    return validation.sample(log.queries, log.items, metrics.slices(counts), 5000, drawn)


def main() -> None:
    """Pick the best trial, measure it, and write its rows to --out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True, help="Run folder after prepare and compute-popularity.")
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--fraction", type=float, default=1.0, help="--train-fraction of the run folder.")
    parser.add_argument("--name", required=True, help="Name of the model.")
    parser.add_argument("--seed", type=int, default=1, help="Seed of the training.")
    parser.add_argument("--settings", default="", help="Other settings of the model, as text.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quality.parquet"))
    options = parser.parse_args()
    hardware.use(1, torch.device("cpu"))

    with reader.reading(options.run, READS) as job:
        truth = truth_of(job)
        rows = job.rows("queries.parquet")
        sample, log = held_out(job, truth.counts, rows), training_inputs.read_interactions(job, "train.parquet", rows)
    asked = sample.queries.unique()
    best, picked, released, count = math.nan, "", "", 0
    lists = retrieval.most_popular(truth.counts, len(truth.queries), 50, truth.known)
    for trial, release, (queries, items) in trials(options.vectors) if options.vectors else ():
        assert (len(queries), len(items)) == (rows, len(truth.counts)), f"{trial}: vectors of another run folder"
        figure = validation.recall_of(queries[asked], items, log, sample, 50)["recall_balanced"]
        print(f"{options.name} {trial}: {figure:.4f}", flush=True)
        count += 1
        if not figure <= best:
            best, picked, released = figure, trial, release
            lists, _ = retrieval.top_k(queries[truth.queries], items, 50, truth.known)
    assert count or not options.vectors, f"{options.vectors}: no vectors"
    measured = comparison.compare_models(truth, {options.name: lists}, [50], metrics.HEAD_SHARE, draws=1000, seed=1)
    new = measured.filter(metric="recall").select(
        *(pl.lit(getattr(options, "name" if key == "model" else key)).alias(key) for key in KEY),
        "slice",
        pl.col("value").alias("recall_at_50"),
        "low",
        "high",
        "n",
        pl.lit(picked).alias("trial"),
        pl.lit(best).fill_nan(None).alias("validation"),
        pl.lit(released).alias("version"),
        pl.lit(datetime.datetime.now(datetime.UTC).date()).alias("date"),
    )
    old = pl.read_parquet(options.out) if options.out.exists() else new.clear()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    pl.concat([old.join(new, on=KEY, how="anti"), new]).sort(*KEY, maintain_order=True).write_parquet(options.out)
    print(new.select("model", "slice", "recall_at_50", "low", "high", "n", "trial"))
    for path in options.vectors.glob("*.npz") if options.vectors else ():
        if path.stem != picked:
            path.unlink()


if __name__ == "__main__":
    main()
