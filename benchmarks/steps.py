"""Time training steps on a prepared run folder, at the sizes of the peers.

python benchmarks/steps.py --run runs/debian --batch-size 1024 --threads 2
python benchmarks/steps.py --run runs/debian --batch-size 8192 --device cuda  # with GPU memory
"""

import argparse
import itertools
import json
import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from ssl_recall.data.features import Bags
from ssl_recall.kernels import optimisers
from ssl_recall.towers import Tower, TwoTower, unit
from ssl_recall.training import loop
from ssl_recall.training.batch import Batch
from ssl_recall.training.loop import StepLosses
from ssl_recall.training.planner import Planner
from stages.learning import hardware, model_files
from stages.learning.objective import objective_of
from stages.learning.settings import Precision, TrainSettings
from stages.learning.training_inputs import TRAINING_READS, load_training_inputs
from stages.run_folder import layout, reader

PRODUCT = re.compile(r"aten::(mm|addmm_?|bmm|linear|mkldnn_linear)$")


def asked() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ssl", action="store_true", help="With SSL, one item per interaction.")
    parser.add_argument("--ssl-every", type=int, default=1, help="Every n-th step has the SSL task.")
    parser.add_argument("--further-negatives", type=int, default=0)
    parser.add_argument(
        "--neighbours", action="store_true", help="With --ssl: also the loss of neighbours, as in train."
    )
    parser.add_argument("--no-straight", action="store_true", help="Without the linear path, which no peer has.")
    parser.add_argument("--embedding-width", type=int, default=32)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--planners", type=int, help="Threads that plan the next steps. [default: as in train]")
    parser.add_argument("--profile", action="store_true", help="Also print the operations that take the time.")
    parser.add_argument(
        "--bound", action="store_true", help="Also print the lower bound of a step, and the share of products."
    )
    parser.add_argument("--precision", type=Precision, default=Precision.AUTO)
    options = parser.parse_args()
    if options.steps < options.ssl_every:
        parser.error("--steps must be at least --ssl-every, to measure a whole round")
    return options


def main() -> None:
    """Print the profile, if requested, and one line of JSON: the median step after the warm-up."""
    options = asked()
    device = torch.device(options.device)
    hardware.use(options.threads, device)
    settings = settings_of(options)
    bf16 = hardware.takes_bf16(settings.precision, device)
    model, planner = ready(options, settings, bf16=bf16)
    planners = hardware.planners(options.threads, device) if options.planners is None else options.planners
    every = steps_of(model, planner, planners)
    for _ in range(options.warm_up):
        next(every)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()  # the trial of bf16 does not count
    median = step_seconds(every, options, device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    limit = products_a_second(device, bf16=bf16)
    plans = itertools.chain.from_iterable(planner.epoch(number) for number in itertools.count(10**6))
    planned = [plan() for plan in itertools.islice(plans, options.ssl_every)]  # a round
    products = sum(products_of(step, model) for step in planned) / len(planned)
    found = {
        "share_of_limit": products / median / limit,
        "step_ms": 1e3 * median,
        "rows_per_s": options.batch_size / median,
        "peak_gib": peak,
    }
    table, in_products = profile(every, device) if options.profile or options.bound else ("", 0.0)
    if options.profile:
        print(table)
    if options.bound:
        memory = sum(passes_of(step, model) for step in planned) / len(planned)
        found["bound_ms"] = 1e3 * (products / limit + memory / bytes_a_second(device))
        found["in_products"] = in_products
    how = {"bf16": bf16, "planners": planners, "device": options.device}
    print(
        json.dumps({"batch_size": options.batch_size, "threads": options.threads, "ssl": options.ssl, **how, **found})
    )


def settings_of(options: argparse.Namespace) -> TrainSettings:
    """Return the settings of `train`, as changed by the flags."""
    return TrainSettings(
        ssl=options.ssl,
        ssl_batch_size=options.batch_size,
        ssl_every=options.ssl_every,
        ssl_neighbour_weight=1.0 if options.neighbours else 0.0,
        batch_size=options.batch_size,
        further_negatives=options.further_negatives,
        embedding_width=options.embedding_width,
        hidden=options.hidden,
        width=options.width,
        precision=options.precision,
    )


def ready(options: argparse.Namespace, settings: TrainSettings, *, bf16: bool) -> tuple[TwoTower, Planner]:
    """Read the run folder, and build the model on the device and its planner."""
    with reader.reading(options.run, (*TRAINING_READS, layout.VIEWS)) as job:
        data, _ = load_training_inputs(job, settings)
        model = model_files.build(data.items, data.queries, job.read(layout.FEATURES), settings.shape)
    if options.no_straight:
        for tower in (model.query, model.item):
            del tower.skip
            tower.vectors = without_straight_path(tower)  # type: ignore[method-assign]
    model.to(options.device)
    return model, Planner(data, objective_of(settings, bf16=bf16), model, 1)


def steps_of(model: TwoTower, planner: Planner, planners: int) -> Iterator[StepLosses]:
    """Train without end, epoch after epoch."""
    steppers = loop.make_optimisers(model, 0.001, 0.1, 1e-5)
    average = optimisers.RunningAverage(loop.dense_weights(model), 0.99)
    for number in itertools.count():
        yield from loop.train_epoch(model, steppers, planner, number, average, planners=planners)


def step_seconds(every: Iterator[StepLosses], options: argparse.Namespace, device: torch.device) -> float:
    """Time the steps: each one on a processor, a few rounds at a time on a GPU, whose work is asynchronous."""
    if device.type == "cuda":
        many = options.ssl_every * -(-loop.CHECK // options.ssl_every)
        rounds = []
        for _ in range(max(options.steps // many, 3)):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(many):
                next(every)
            torch.cuda.synchronize()
            rounds.append((time.perf_counter() - start) / many)
        return float(np.median(rounds))
    times = []
    for _ in range(options.steps):
        start = time.perf_counter()
        next(every)
        times.append(time.perf_counter() - start)
    # a step with SSL costs more than one without, so average the medians of each place in a round
    whole = np.array(times[: len(times) // options.ssl_every * options.ssl_every]).reshape(-1, options.ssl_every)
    return float(np.median(whole, axis=0).mean())


def profile(every: Iterator[StepLosses], device: torch.device) -> tuple[str, float]:
    """Take sixteen more steps; return a table of the costliest operations, and the share of matrix products."""
    start = time.perf_counter()
    with torch.profiler.profile() as found:
        for _ in range(16):
            next(every)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    averages = found.key_averages()
    products = sum(getattr(row, by.replace("cuda", "device")) for row in averages if PRODUCT.search(row.key)) / 1e6
    return str(averages.table(sort_by=by, row_limit=25, max_name_column_width=60)), products / seconds


def passes_of(planned: Batch, model: TwoTower) -> float:
    """Count the bytes that a step moves through memory at least.

    They are a row of the table and a row of the bags' gradient per value; the bags four times (pooled, and each
    gradient); the touched rows four times (gradient, accumulator, rows read and written). Logits do not count, because
    a block of them stays in the cache.
    """
    pooling = planned.pooling
    rows = 2 * len(pooling.rows) + 4 * len(pooling.starts) + 4 * len(pooling.touched)
    return 4.0 * model.embeddings.width * rows


def bytes_a_second(device: torch.device) -> float:
    """Measure the rate of a large copy, in bytes read and written per second."""
    source = torch.randn(2**24 if device.type == "cpu" else 2**28, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        target.copy_(source)[0].item()
        seconds.append(time.perf_counter() - start)
    return 2 * 4 * len(source) / float(min(seconds))


def products_a_second(device: torch.device, *, bf16: bool) -> float:
    """Measure the rate of a large matrix product, in floating-point operations per second."""
    dtype, size = torch.bfloat16 if bf16 else torch.float32, 4096 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def products_of(planned: Batch, model: TwoTower) -> float:
    """Count the operations of a step's matrix products, of towers and softmaxes: once forward, twice backward."""
    total = 0
    for tower, bags in ((model.query, planned.queries), (model.item, planned.items)):
        many = len(bags.lengths) // len(tower.starts)
        total += many * sum(part.weight.numel() for part in tower.modules() if isinstance(part, torch.nn.Linear))
    width = [part.out_features for part in model.item.layers if isinstance(part, torch.nn.Linear)][-1]
    cells = len(planned.own) * len(planned.times)
    for pairs in (planned.same, planned.alike):
        cells += (len(pairs.bounds) - 1) ** 2 if pairs is not None else 0
    return float(6 * (total + width * cells))


def without_straight_path(tower: Tower) -> Callable[..., torch.Tensor]:
    """Return the tower's forward pass without the linear path, to compare equal models."""

    def forward(pooled: torch.Tensor, _bags: Bags, _past: torch.Tensor | None = None) -> torch.Tensor:
        return unit(tower.layers(pooled.flatten(1)).float())

    return forward


if __name__ == "__main__":
    main()
