"""LibRecommender TwoTower on a prepared run folder: rows a second of its own fit loop, in an environment of its own.

    pip install LibRecommender==1.5.2 tensorflow-cpu==2.15.1 torch pandas scikit-learn polars
    python benchmarks/peers/librecommender_two_tower.py --run runs/debian --batch-size 1024 --threads 2

The model is set as near to ours as it goes: softmax over the batch's items with logQ, accidental hits removed, unit
vectors, no batch normalisation. What stays different: it concatenates a list's values, each in a column of its own,
where ours averages them, so its towers' inputs are wider (`--values 1` keeps one value a list, and with it the input of
an averaged list); the towers share no vocabulary, padding has a learned vector, and its one optimiser is TensorFlow 1's
Adam, which moves every row of every table at every step. With `--ssl`, it adds its loss on as many items as the batch
has rows, masked by correlation; the mutual information that comes first is not timed. TensorFlow 2.15 is the last that
has, without tf-keras, the layers that it calls.
"""

import argparse
import contextlib
import itertools
import json
import os
import sys
import time
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import libreco
import numpy as np
import pandas as pd
import polars as pl
from libreco.algorithms import TwoTower
from libreco.data import DatasetFeat
from libreco.training import tf_trainer


def tables(run: Path, side: str, features: pl.DataFrame, values: int) -> dict[str, np.ndarray]:
    """Give the codes of each feature but the id: (N,), or padded (N, L), 0 where there is none."""
    frame = pl.read_parquet(run / ("items.parquet" if side == "item" else "queries.parquet"))
    found = {}
    for name, kind in features.filter(pl.col("side") == side, pl.col("kind") != "id")["feature", "kind"].iter_rows():
        column = frame[f"{name}__code"]
        if kind == "multi-valued":
            column = column.list.head(values)
            longest = int(column.list.len().max())
            padded = [[*row, *[0] * (longest - len(row))] for row in column.to_list()]
            column = pl.Series(padded, dtype=pl.Array(pl.Int32, longest))
        found[f"{side}_{name}"] = column.to_numpy()
    return found


def dataset(run: Path, values: int):
    """Give its training set and what it knows of the data: a column a feature, or a column a place in a list."""
    log = pl.read_parquet(run / "train.parquet")
    features = pl.read_parquet(run / "features.parquet")
    rows = {"query": log["query_index"].to_numpy(), "item": log["item_index"].to_numpy()}
    columns = {"user": rows["query"], "item": rows["item"], "label": np.ones(len(log), np.float32)}
    names: dict[str, list[str]] = {"query": [], "item": []}
    single, lists = [], []
    for side, own in rows.items():
        for name, codes in tables(run, side, features, values).items():
            if codes.ndim == 1:
                places = {name: codes[own]}
                single.append(name)
            else:
                places = {f"{name}_{place}": column[own] for place, column in enumerate(codes.T)}
                lists.append(list(places))
            columns |= places
            names[side] += places
    return DatasetFeat.build_trainset(
        pd.DataFrame(columns), names["query"], names["item"], single, multi_sparse_col=lists, pad_val=0
    )


def main() -> None:
    """Time the steps of `fit`, stamped where its loop takes a batch; the first are left out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--embedding-width", type=int, default=32)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--values", type=int, default=16, help="The most that are kept of a list.")
    parser.add_argument("--ssl", action="store_true", help="With its correlated feature masking.")
    options = parser.parse_args()
    for pool in ("INTRAOP", "INTEROP"):  # its TwoTower leaves out the session's settings that it is given
        os.environ[f"TF_NUM_{pool}_THREADS"] = str(options.threads)

    loader, stamps = tf_trainer.get_batch_loader, []

    def stamped(*arguments):
        epochs = itertools.chain.from_iterable(itertools.repeat(loader(*arguments)))
        for batch in itertools.islice(epochs, options.steps + 11):
            stamps.append(time.perf_counter())
            yield batch

    tf_trainer.get_batch_loader = stamped
    with contextlib.redirect_stdout(sys.stderr):
        data, info = dataset(options.run, options.values)
        model = TwoTower(
            "ranking",
            info,
            loss_type="softmax",
            embed_size=options.embedding_width,
            norm_embed=True,
            n_epochs=1,
            batch_size=options.batch_size,
            use_bn=False,
            hidden_units=options.widths,
            use_correction=True,
            temperature=0.05,
            remove_accidental_hits=True,
            ssl_pattern="cfm" if options.ssl else None,
            alpha=0.1,
        )
        model.fit(data, neg_sampling=True, verbose=0)
    median = float(np.median(np.diff(stamps)[10:]))
    print(
        json.dumps(
            {
                "peer": "librecommender",
                "optimiser": "adam",
                "batch_size": options.batch_size,
                "threads": options.threads,
                "step_ms": median * 1e3,
                "rows_per_s": options.batch_size / median,
                "version": libreco.__version__,
                "ssl": options.ssl,
            }
        )
    )


if __name__ == "__main__":
    main()
