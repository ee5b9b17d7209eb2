"""Torch-RecHub DSSM on a prepared run folder: rows a second of its MatchTrainer, in an environment of its own.

    pip install torch-rechub==0.9.0 torch polars
    python benchmarks/peers/rechub_dssm.py --run runs/debian --batch-size 1024 --threads 2

Its in-batch negatives, all of them, which its trainer shuffles row by row in a Python loop before the softmax; no logQ,
accidental hits stay in, and the scores are plain cosines: it has a temperature but does not use it here. Every layer of
its perceptrons is batch-normalised and rectified, the last one too, and its embeddings have dense gradients, so that
Adam, its default, moves every row of every table at every step.

Batches are gathered from the catalogue's codes as whole tensors, the fastest way to feed it; its own data set, which
gathers a row at a time, is slower. Lists are padded to their longest (at most 16) and averaged under a mask.

With `--save FOLDER` it trains in earnest and leaves the vectors of every epoch for benchmarks/quality/score.py.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch
import torch_rechub
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.matching import DSSM
from torch_rechub.trainers import MatchTrainer


def tables(run: Path, side: str, features: pl.DataFrame) -> dict[str, torch.Tensor]:
    """Return the codes of each feature: (N,) or padded (N, L), 0 where there is none."""
    frame = pl.read_parquet(run / ("items.parquet" if side == "item" else "queries.parquet"))
    found = {}
    for name, kind in features.filter(side=side)["feature", "kind"].iter_rows():
        column = frame[f"{name}__code"]
        if kind == "multi-valued":
            longest = int(column.list.len().max())
            padded = [[*row, *[0] * (longest - len(row))] for row in column.to_list()]
            column = pl.Series(padded, dtype=pl.Array(pl.Int32, longest))
        found[f"{side}_{name}"] = torch.from_numpy(column.to_numpy().astype(np.int64))
    return found


def declared(features: pl.DataFrame, width: int) -> dict[str, list[SparseFeature | SequenceFeature]]:
    """Return its features of each side; the first of a vocabulary has the table, the others share it."""
    owners: dict[str, str] = {}
    found: dict[str, list[SparseFeature | SequenceFeature]] = {"query": [], "item": []}
    for side, name, kind, vocabulary, codes in features["side", "feature", "kind", "vocabulary", "codes"].iter_rows():
        shared = {"vocab_size": codes, "embed_dim": width, "shared_with": owners.get(vocabulary)}
        own = f"{side}_{name}"
        owners.setdefault(vocabulary, own)
        if kind == "multi-valued":
            found[side].append(SequenceFeature(own, pooling="mean", padding_idx=0, **shared))
        else:
            found[side].append(SparseFeature(own, **shared))
    return found


def batches(run: Path, features: pl.DataFrame, size: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Return shuffled batches without end: the codes of both sides, and labels that in-batch negatives do not read."""
    log = pl.read_parquet(run / "train.parquet")
    sides = [
        (torch.from_numpy(log[f"{side}_index"].to_numpy().astype(np.int64)), tables(run, side, features))
        for side in ("query", "item")
    ]
    label = torch.ones(size)
    while True:
        for rows in torch.randperm(len(log))[: len(log) // size * size].split(size):
            yield {name: codes[own[rows]] for own, table in sides for name, codes in table.items()}, label


class Tempered(DSSM):
    """With the temperature that DSSM is given and does not use where the negatives are in the batch."""

    def user_tower(self, x):
        """Return vectors of length 1 / temperature, so that the products that the trainer makes are cosines over it."""
        return super().user_tower(x) / self.temperature


def vectors(tower, table: dict[str, torch.Tensor]) -> np.ndarray:
    """Embed every row of a table: (rows, D) float32."""
    rows = len(next(iter(table.values())))
    with torch.no_grad():
        parts = [
            tower({name: codes[low : low + 4096] for name, codes in table.items()}) for low in range(0, rows, 4096)
        ]
    return torch.cat(parts).numpy()


def main() -> None:
    """Time steps, stamped where its trainer takes a batch. Or train, and save the vectors of every epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0.001, help="Learning rate.")
    parser.add_argument("--use-temperature", action="store_true", help="Repair it: cosines are divided by 0.05.")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=12, help="With --save.")
    parser.add_argument("--save", type=Path, help="Train, and write the vectors of every epoch into this folder.")
    parser.add_argument("--embedding-width", type=int, default=32)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 128])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)

    features = pl.read_parquet(options.run / "features.parquet")
    own = declared(features, options.embedding_width)
    tower = {"dims": options.widths}
    kind = Tempered if options.use_temperature else DSSM
    model = kind(own["query"], own["item"], tower, tower, temperature=0.05)
    trainer = MatchTrainer(model, mode=2, in_batch_neg=True, optimizer_params={"lr": options.rate})
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        sides = {side: tables(options.run, side, features) for side in ("query", "item")}
        steps = pl.scan_parquet(options.run / "train.parquet").select(pl.len()).collect().item() // options.batch_size
        feed = batches(options.run, features, options.batch_size)
        for epoch in range(options.epochs):
            trainer.train_one_epoch(itertools.islice(feed, steps))
            model.eval()
            np.savez(
                options.save / f"batch={options.batch_size},rate={options.rate:g},epoch={epoch}.npz",
                queries=vectors(model.user_tower, sides["query"]),
                items=vectors(model.item_tower, sides["item"]),
                version=torch_rechub.__version__,
            )
        return
    stamps = []

    def stamped():
        for batch in itertools.islice(batches(options.run, features, options.batch_size), options.steps + 11):
            stamps.append(time.perf_counter())
            yield batch

    trainer.train_one_epoch(stamped())
    median = float(np.median(np.diff(stamps)[10:]))
    print(
        json.dumps(
            {
                "peer": "rechub",
                "optimiser": "adam",
                "batch_size": options.batch_size,
                "threads": options.threads,
                "step_ms": median * 1e3,
                "rows_per_s": options.batch_size / median,
                "version": torch_rechub.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
