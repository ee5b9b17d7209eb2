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

With `--save FOLDER` it trains in earnest and leaves the vectors of every epoch for benchmarks/quality/score.py.
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
from libreco.feature.sparse import merge_sparse_indices
from libreco.tfops.features import get_feed_dict
from libreco.training import tf_trainer


def tables(run: Path, side: str, features: pl.DataFrame, values: int) -> dict[str, np.ndarray]:
    """Return the codes of each feature but the id: (N,), or padded (N, L), 0 where there is none."""
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


class Data:
    """The training set, what the library knows of it, and the columns that it was made of."""

    def __init__(self, run: Path, values: int):
        """Read it: a column a feature, or a column a place in a list."""
        features = pl.read_parquet(run / "features.parquet")
        self.tables = {side: tables(run, side, features, values) for side in ("query", "item")}
        log = pl.read_parquet(run / "train.parquet")
        own = {side: log[f"{side}_index"].to_numpy() for side in ("query", "item")}
        columns, names = self.columns(own)
        columns = {"user": own["query"], "item": own["item"], "label": np.ones(len(log), np.float32)} | columns
        flat = {name: codes.ndim == 1 for table in self.tables.values() for name, codes in table.items()}
        self.single = [name for name in flat if flat[name]]
        self.lists = [[place for place in columns if place.startswith(f"{name}@")] for name in flat if not flat[name]]
        self.train, self.info = DatasetFeat.build_trainset(
            pd.DataFrame(columns), *names.values(), self.single, multi_sparse_col=self.lists, pad_val=0
        )

    def columns(self, own: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
        """Return the columns of some rows of each side, and their names by side."""
        columns, names = {}, {"query": [], "item": []}
        for side, rows in own.items():
            for name, codes in self.tables[side].items():
                places = {f"{name}@{place}": column for place, column in enumerate(codes.T)} if codes.ndim > 1 else {}
                places = {place: column[rows] for place, column in (places or {name: codes}).items()}
                columns |= places
                names[side] += places
        return columns, names

    def encoded(self, side: str, rows: int) -> np.ndarray | None:
        """Return the library's numbers of one side's features, for all its rows, also those without an interaction."""
        own = {name: np.arange(rows) if name == side else np.zeros(rows, np.int64) for name in ("query", "item")}
        held = {"query": self.info.user_sparse_col, "item": self.info.item_sparse_col}[side].index
        if not held:
            return None
        frame = pd.DataFrame(self.columns(own)[0])
        known = (self.info.sparse_unique_vals, self.info.multi_sparse_unique_vals)
        return merge_sparse_indices(frame, self.single, self.lists, *known, is_train=False, is_ordered=True)[:, held]


def save_every_epoch(model: TwoTower, data: Data, run: Path, stem: Path) -> None:
    """Have the vectors of all queries and items written whenever the model sets its own, which is after each epoch.

    A query without an interaction has its features and the mean of the ids, as the library does it. An item without one
    has what stands for a hidden id in its SSL, and its features; without SSL the mean of the items' vectors, as there.
    """
    counts = [
        pl.scan_parquet(run / f"{side}.parquet").select(pl.len()).collect().item() for side in ("queries", "items")
    ]
    codes = {side: data.encoded(side, count) for side, count in zip(("query", "item"), counts, strict=True)}
    user = np.array([data.info.user2id.get(row, data.info.n_users) for row in range(counts[0])])
    item = np.array([data.info.item2id.get(row, -1) for row in range(counts[1])])
    epochs, own = itertools.count(), model.set_embeddings

    def set_embeddings() -> None:
        own()
        queries = []
        for part in np.array_split(np.arange(counts[0]), counts[0] // 4096 + 1):
            sparse = None if codes["query"] is None else codes["query"][part]
            feed = get_feed_dict(model, user_indices=user[part], user_sparse_indices=sparse, is_training=False)
            queries.append(model.sess.run(model.user_embeds, feed))
        items = np.where((item >= 0)[:, None], model.item_embeds_np[item], model.item_embeds_np.mean(0))
        if model.ssl_pattern:
            for part in np.array_split(np.flatnonzero(item < 0), (item < 0).sum() // 4096 + 1):
                hidden = np.zeros((len(part), 1), np.int64)
                features = codes["item"][part] + data.info.n_items + 1  # as its get_ssl_features counts them
                feed = {model.ssl_left_sparse_indices: np.hstack([hidden, features]), model.is_training: False}
                items[part] = model.sess.run(model.ssl_left_embeds, feed)
        path = stem.with_name(f"{stem.name},epoch={next(epochs)}.npz")
        np.savez(path, queries=np.concatenate(queries), items=items, version=libreco.__version__)

    model.set_embeddings = set_embeddings


def main() -> None:
    """Time the steps of `fit`, stamped where its loop takes a batch. Or train, and save the vectors of every epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--embedding-width", type=int, default=32)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--values", type=int, default=16, help="The most that are kept of a list.")
    parser.add_argument("--rate", type=float, default=0.001, help="Learning rate.")
    parser.add_argument("--epochs", type=int, default=12, help="With --save.")
    parser.add_argument("--save", type=Path, help="Train, and write the vectors of every epoch into this folder.")
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

    if not options.save:
        tf_trainer.get_batch_loader = stamped
    with contextlib.redirect_stdout(sys.stderr):
        data = Data(options.run, options.values)
        model = TwoTower(
            "ranking",
            data.info,
            loss_type="softmax",
            embed_size=options.embedding_width,
            norm_embed=True,
            n_epochs=options.epochs if options.save else 1,
            lr=options.rate,
            batch_size=options.batch_size,
            use_bn=False,
            hidden_units=options.widths,
            use_correction=True,
            temperature=0.05,
            remove_accidental_hits=True,
            ssl_pattern="cfm" if options.ssl else None,
            alpha=0.1,
        )
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
            stem = options.save / f"batch={options.batch_size},rate={options.rate:g}"
            save_every_epoch(model, data, options.run, stem)
            model.fit(data.train, neg_sampling=True, verbose=2)
            return
        model.fit(data.train, neg_sampling=True, verbose=0)
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
