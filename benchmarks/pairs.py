"""Time the mutual information of all pairs of 10 single-valued features, 1 M items, in turns with two references.

python benchmarks/pairs.py --repeat 3
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from sklearn.metrics import mutual_info_score

from ssl_recall import mutual_information

SIZES = (5, 10, 20, 50, 50, 100, 200, 500, 1000, 2000)


def main() -> None:
    """Print a line of JSON: median seconds of each case, and the largest difference from scikit-learn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {f"f{n}": (rng.zipf(1.3, arguments.items) % size).astype(np.int32) for n, size in enumerate(SIZES)}
    )
    pairs = list(combinations(frame.columns, 2))

    def ours(shuffles: int) -> list[float]:
        codes = {name: mutual_information.codes_of(frame[name]) for name in frame.columns}
        found = mutual_information.pair_information(codes, pairs, shuffles=shuffles, threads=arguments.threads)
        by_pair = {(pair.feature_a, pair.feature_b): pair.mi for pair in found}
        return [by_pair[pair] for pair in pairs]

    cases: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours(0),
        "ours, with the chance level": lambda: ours(1),
        "polars, counts alone": lambda: pl.collect_all([frame.lazy().group_by(a, b).len() for a, b in pairs]),
        "scikit-learn": lambda: [mutual_info_score(frame[a], frame[b]) for a, b in pairs],
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    found: dict[str, Any] = {}
    for _ in range(arguments.repeat):
        for name, case in cases.items():
            start = time.perf_counter()
            found[name] = case()
            seconds[name].append(time.perf_counter() - start)
    difference = float(np.abs(np.subtract(found["ours"], found["scikit-learn"])).max())
    medians = {name: statistics.median(own) for name, own in seconds.items()}
    print(json.dumps({"items": arguments.items, "pairs": len(pairs), **medians, "difference": difference}))


if __name__ == "__main__":
    main()
