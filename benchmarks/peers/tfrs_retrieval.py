"""TFRS Retrieval on a prepared run folder: rows a second at the same sizes, in an environment of its own.

    pip install tensorflow-cpu tf-keras tensorflow-recommenders polars
    python benchmarks/peers/tfrs_retrieval.py --run runs/debian --batch-size 1024 --threads 2

With `--save FOLDER` it trains in earnest and leaves the vectors of every epoch for benchmarks/quality/score.py.
The catalogue's codes are a constant of the graph and are gathered by row, the fastest way to feed it; lists are padded
to their longest (at most 16) and averaged under a mask.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import polars as pl
import tensorflow as tf
import tensorflow_recommenders as tfrs

keras = tf.keras


def tables(run: Path, side: str, features: pl.DataFrame) -> list[tuple[np.ndarray, str, int]]:
    """Return (codes, vocabulary, its size) of each feature: (N,) or padded (N, L), 0 where there is none."""
    frame = pl.read_parquet(run / ("items.parquet" if side == "item" else "queries.parquet"))
    found = []
    for name, kind, vocabulary, codes in (
        features.filter(side=side).select("feature", "kind", "vocabulary", "codes").iter_rows()
    ):
        column = frame[f"{name}__code"]
        if kind == "multi-valued":
            longest = int(column.list.len().max())
            padded = [[*row, *[0] * (longest - len(row))] for row in column.to_list()]
            column = pl.Series(padded, dtype=pl.Array(pl.Int32, longest))
        found.append((column.to_numpy(), vocabulary, codes))
    return found


class Tower(keras.Model):
    """Embeddings, averaged over a list's values, then a perceptron."""

    def __init__(self, columns, embeddings, widths):
        """`columns` are what `tables` gives, `embeddings` a layer a vocabulary."""
        super().__init__()
        self.columns = [(tf.constant(codes, tf.int32), embeddings[vocabulary]) for codes, vocabulary, _ in columns]
        self.layers_ = keras.Sequential(
            [*[keras.layers.Dense(width, activation="relu") for width in widths[:-1]], keras.layers.Dense(widths[-1])]
        )

    def call(self, rows):
        """Embed rows of the table: (B,) -> (B, D) unit rows."""
        parts = []
        for codes, embedding in self.columns:
            own = tf.gather(codes, rows)
            vectors = embedding(own)
            if len(own.shape) == 2:
                mask = tf.cast(own > 0, vectors.dtype)[:, :, None]
                vectors = tf.reduce_sum(vectors * mask, 1) / tf.maximum(tf.reduce_sum(mask, 1), 1.0)
            parts.append(vectors)
        return tf.math.l2_normalize(tf.cast(self.layers_(tf.concat(parts, 1)), tf.float32), 1)


class Model(tfrs.Model):
    """Two towers and the in-batch softmax with logQ and accidental hits removed."""

    def __init__(self, query, item, p):
        """`p` is each item's share of the training interactions."""
        super().__init__()
        self.query, self.item, self.p = query, item, tf.constant(p, tf.float32)
        self.task = tfrs.tasks.Retrieval(temperature=0.05, remove_accidental_hits=True)

    def compute_loss(self, batch, training=False):  # noqa: ARG002 - the name that the base class calls
        """Return the loss of (query rows, item rows)."""
        query_rows, item_rows = batch
        return self.task(
            self.query(query_rows),
            self.item(item_rows),
            candidate_sampling_probability=tf.gather(self.p, item_rows),
            candidate_ids=item_rows,
            compute_metrics=False,
        )


def vectors(tower: Tower, rows: int) -> np.ndarray:
    """Embed every row of its table: (rows, D) float32."""
    return np.concatenate([tower(tf.range(low, min(low + 4096, rows))).numpy() for low in range(0, rows, 4096)])


def main() -> None:
    """Time steps; the first, which trace the graph, are left out. Or train, and save the vectors of every epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--optimiser", default="adagrad", choices=["adagrad", "adam"])
    parser.add_argument("--rate", type=float, help="Learning rate. [default: 0.1 of Adagrad, 0.001 of Adam]")
    parser.add_argument("--bf16", action="store_true", help="Layers in bfloat16, weights in float32.")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=12, help="With --save.")
    parser.add_argument("--save", type=Path, help="Train, and write the vectors of every epoch into this folder.")
    parser.add_argument("--embedding-width", type=int, default=32)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 128])
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)

    if options.bf16:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")

    features = pl.read_parquet(options.run / "features.parquet")
    columns = {side: tables(options.run, side, features) for side in ("query", "item")}
    embeddings = {
        vocabulary: keras.layers.Embedding(codes, options.embedding_width)
        for side in columns.values()
        for _, vocabulary, codes in side
    }
    towers = [Tower(columns[side], embeddings, options.widths) for side in ("query", "item")]
    keras.mixed_precision.set_global_policy("float32")  # the loss and its logits: the task refuses others
    model = Model(*towers, pl.read_parquet(options.run / "popularity.parquet")["p"].to_numpy())
    keras.utils.set_random_seed(1)
    optimiser, usual = {"adagrad": (keras.optimizers.Adagrad, 0.1), "adam": (keras.optimizers.Adam, 0.001)}[
        options.optimiser
    ]
    rate = options.rate or usual
    model.compile(optimizer=optimiser(rate))
    log = pl.read_parquet(options.run / "train.parquet")
    pairs = (log["query_index"].to_numpy(), log["item_index"].to_numpy())
    data = tf.data.Dataset.from_tensor_slices(pairs).shuffle(len(log), seed=1).repeat()
    batches = iter(data.batch(options.batch_size, drop_remainder=True).prefetch(4))
    step = tf.function(lambda batch: model.train_step(batch))
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        for epoch in range(options.epochs):
            for _ in range(len(log) // options.batch_size):
                step(next(batches))
            query, item = (
                vectors(tower, len(columns[side][0][0])) for side, tower in zip(columns, towers, strict=True)
            )
            name = f"batch={options.batch_size},rate={rate:g},epoch={epoch}.npz"
            np.savez(options.save / name, queries=query, items=item, version=tfrs.__version__)
        return
    for _ in range(10):
        step(next(batches))
    times = []
    for _ in range(options.steps):
        start = time.perf_counter()
        float(step(next(batches))["loss"])
        times.append(time.perf_counter() - start)
    median = float(np.median(times))
    print(
        json.dumps(
            {
                "peer": "tfrs",
                "optimiser": options.optimiser,
                "batch_size": options.batch_size,
                "threads": options.threads,
                "step_ms": median * 1e3,
                "rows_per_s": options.batch_size / median,
                "version": tfrs.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
