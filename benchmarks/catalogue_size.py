"""Time a training step as the catalogue grows: tensors made in memory, 12 features, the same log of 1 M interactions.

python benchmarks/catalogue_size.py --items 10000 10000000 --threads 1
"""

import argparse
import json
import resource
import time

import numpy as np
import torch
from synthetic import LONGEST, SEVERAL, SINGLE

from ssl_recall import batches, losses, optimisers, steps, training
from ssl_recall.features import EncodedTable, Kind
from stages import processor

LOG, QUERIES, BATCH = 1_000_000, 200_000, 1024


def table(items: int) -> tuple[EncodedTable, dict[str, int]]:
    """Give a catalogue with an id, 8 single-valued and 4 multi-valued features, and the sizes of its vocabularies."""
    rng = np.random.default_rng(1)
    sizes = {"id": items, **{f"s{n}": n for n in SINGLE}, **{f"m{n}": n for n in SEVERAL}}
    lengths = np.ones((items, len(sizes)), np.int64)
    lengths[:, -len(SEVERAL) :] = rng.integers(1, LONGEST + 1, (items, len(SEVERAL)))
    offsets = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(lengths.ravel(), out=offsets[1:])
    limit = np.repeat(np.tile(np.array(list(sizes.values()), np.int32), items), lengths.ravel())
    codes = (rng.random(len(limit), np.float32) * limit).astype(np.int32).clip(max=limit - 1) + 2
    codes[offsets[:-1].reshape(items, -1)[:, 0]] = np.arange(items, dtype=np.int32) + 2
    kinds = (Kind.ID, *[Kind.CATEGORICAL] * len(SINGLE), *[Kind.MULTI_VALUED] * len(SEVERAL))
    names = tuple(sizes)
    found = EncodedTable(names, kinds, names, torch.from_numpy(codes), torch.from_numpy(offsets), {})
    return found, {name: size + 2 for name, size in sizes.items()}


def step_ms(items: int, threads: int) -> float:
    """Give the median of a step, in milliseconds."""
    processor.use(threads, exact=False)
    catalogue, vocabularies = table(items)
    rng = np.random.default_rng(2)
    queries = EncodedTable(
        ("user",), (Kind.ID,), ("user",), torch.arange(QUERIES, dtype=torch.int32) + 2, torch.arange(QUERIES + 1), {}
    )
    taken = torch.from_numpy(rng.zipf(1.3, LOG).clip(max=items) - 1)
    log = batches.interactions(torch.from_numpy(np.sort(rng.integers(0, QUERIES, LOG))), taken, QUERIES)
    counts = torch.bincount(taken, minlength=items)
    pool = batches.negative_pool(counts, 0.002)
    log_p = (counts.double().clamp(min=0.01) / counts.sum()).log().float()
    log_q = losses.mixture(log_p, pool.probabilities(items), BATCH, 1024)
    objective = steps.Objective(BATCH, 0.05, 1024, 0.1, 0, None)
    model = training.two_tower(
        catalogue,
        queries,
        vocabularies | {"user": QUERIES + 2},
        embedding_width=32,
        hidden=[256],
        width=64,
        history=False,
        seed=1,
    )
    data = steps.TrainingData(catalogue, queries, log, log_q, pool, None)
    average = optimisers.RunningAverage(training.dense_weights(model), 0.99)
    planner = steps.Planner(data, objective, model, 1)
    epoch = training.train_epoch(model, training.optimisers(model, 0.001, 0.1, 1e-7), planner, 0, average)
    times = []
    for number in range(90):
        start = time.perf_counter()
        next(epoch)
        if number >= 10:
            times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def main() -> None:
    """Print a line of JSON for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    for items in arguments.items:
        found = step_ms(items, arguments.threads)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            json.dumps({"items": items, "threads": arguments.threads, "step_ms": found, "peak_gib": peak}), flush=True
        )


if __name__ == "__main__":
    main()
