"""Time a training step by size of catalogue and log: 12 features; the log comes from a Parquet file.

python benchmarks/growth.py --items 10000 10000000 --interactions 1000000
python benchmarks/growth.py --items 1000000 --interactions 1000000 100000000
"""

import argparse
import itertools
import json
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from synthetic import LONGEST, ROWS, SEVERAL, SINGLE

from ssl_recall import losses, towers
from ssl_recall.data.codes import Kind
from ssl_recall.data.features import EncodedTable
from ssl_recall.kernels import optimisers
from ssl_recall.training import loop, sampling
from ssl_recall.training.objective import Objective
from ssl_recall.training.planner import Planner, TrainingData
from stages.learning import hardware, training_inputs
from stages.run_folder import reader

TAKEN, BATCH = 20, 1024  # interactions per query, and per batch


def table(items: int) -> tuple[EncodedTable, dict[str, int]]:
    """Make a catalogue with an id, 8 single-valued and 4 multi-valued features; return it with its vocabulary sizes."""
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


def write_log(path: Path, items: int, interactions: int, *, spread: bool = False) -> None:
    """Write a table of interactions sorted by query, as prepare does, one row group at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2)
    schema = pa.schema({"query_index": pa.int32(), "item_index": pa.int32()})
    writer = pq.ParquetWriter(path, schema, compression="zstd")
    for low in range(0, interactions, ROWS):
        rows = min(ROWS, interactions - low)
        query = (np.arange(low, low + rows) // TAKEN).astype(np.int32)
        item = (rng.integers(0, items, rows) if spread else rng.zipf(1.3, rows).clip(max=items) - 1).astype(np.int32)
        writer.write_table(pa.table({"query_index": query, "item_index": item}))
    writer.close()


class AsItIs(reader.Reader):
    """Opens files that no stage wrote, without any check."""

    def path(self, name: str) -> Path:
        """Return the path of a file."""
        return self.run / name


def step_ms(items: int, interactions: int, threads: int, device: str) -> dict[str, float]:
    """Return the median time of a step in milliseconds, and of reading the log in seconds."""
    place = torch.device(device)
    hardware.use(threads, place)
    run = Path(".bench") / "growth" / f"{items}_{interactions}"
    if not (run / "train.parquet").exists():
        write_log(run / "train.parquet", items, interactions)
    job = AsItIs(run, "")
    asked = -(-interactions // TAKEN)
    start = time.perf_counter()
    log = training_inputs.read_interactions(job, "train.parquet", asked)
    reading = time.perf_counter() - start
    catalogue, vocabularies = table(items)
    queries = EncodedTable(
        ("user",), (Kind.ID,), ("user",), torch.arange(asked, dtype=torch.int32) + 2, torch.arange(asked + 1), {}
    )
    counts = torch.bincount(log.items, minlength=items)
    pool = sampling.negative_pool(counts, 0.002)
    log_p = (counts.double().clamp(min=0.01) / counts.sum()).log().float()
    log_q = losses.mixture(log_p, pool.probabilities(items), BATCH, 1024)
    objective = Objective(BATCH, 0.05, 1024, 0.1, 0, None)
    sizes: dict[str, Any] = {"embedding_width": 32, "hidden": [256], "width": 64, "history": False, "seed": 1}
    model = towers.two_tower(catalogue, queries, vocabularies | {"user": asked + 2}, **sizes).to(place)
    data = TrainingData(catalogue, queries, log, log_q, pool, None)
    average = optimisers.RunningAverage(loop.dense_weights(model), 0.99)
    planner = Planner(data, objective, model, 1)
    steppers = loop.make_optimisers(model, 0.001, 0.1, 1e-5)
    planners = 0 if device == "cpu" else hardware.planners(threads, place)
    epoch = loop.train_epoch(model, steppers, planner, 0, average, planners=planners)
    times = []
    for number in range(110):
        start = time.perf_counter()
        next(epoch)
        if device != "cpu":
            torch.cuda.synchronize()
        if number >= 10:
            times.append(time.perf_counter() - start)
    return {"step_ms": 1e3 * float(np.median(times)), "read_s": reading}


def main() -> None:
    """Print a line of JSON for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000])
    parser.add_argument("--interactions", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    for items, interactions in itertools.product(arguments.items, arguments.interactions):
        with multiprocessing.get_context("spawn").Pool(1) as own:  # a new process, because its peak is measured
            found, peak = own.apply(measured, (items, interactions, arguments.threads, arguments.device))
        sizes = {"items": items, "interactions": interactions, "threads": arguments.threads}
        print(json.dumps(sizes | found | {"peak_gib": peak}), flush=True)


def measured(items: int, interactions: int, threads: int, device: str) -> tuple[dict[str, float], float]:
    """Return the times of step_ms, and the peak of this process in GiB."""
    found = step_ms(items, interactions, threads, device)
    return found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
