"""implicit's ALS on a prepared run folder: the vectors of a small grid of settings, in an environment of its own.

    pip install implicit polars
    python benchmarks/peers/implicit_als.py --run runs/debian --save runs/als

It knows the pairs and no features: an item that nobody has taken in training has a vector of zeros.
"""

import argparse
import itertools
import os
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # its own threads are enough

import implicit
import numpy as np
import polars as pl
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix


def main() -> None:
    """Factorise at every setting; score.py picks among them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--regularization", type=float, nargs="+", default=[0.1, 1.0, 10.0])
    parser.add_argument("--alpha", type=float, nargs="+", default=[10.0, 40.0, 160.0])
    parser.add_argument("--save", type=Path, required=True, help="Write the vectors of every setting into this folder.")
    options = parser.parse_args()
    log = pl.read_parquet(options.run / "train.parquet")
    shape = tuple(
        pl.scan_parquet(options.run / f"{side}.parquet").select(pl.len()).collect().item()
        for side in ("queries", "items")
    )
    taken = csr_matrix((np.ones(len(log), np.float32), (log["query_index"], log["item_index"])), shape)
    options.save.mkdir(parents=True, exist_ok=True)
    for regularization, alpha in itertools.product(options.regularization, options.alpha):
        model = AlternatingLeastSquares(
            options.factors,
            regularization=regularization,
            alpha=alpha,
            random_state=1,
            num_threads=options.threads,
            use_gpu=False,
        )
        model.fit(taken, show_progress=False)
        np.savez(
            options.save / f"regularization={regularization:g},alpha={alpha:g}.npz",
            queries=model.user_factors,
            items=model.item_factors,
            version=implicit.__version__,
        )


if __name__ == "__main__":
    main()
