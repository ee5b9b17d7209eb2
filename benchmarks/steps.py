"""Time training steps on a prepared run folder, at the sizes that the peers are timed at.

python benchmarks/steps.py --run runs/debian --batch-size 1024 --threads 2
python benchmarks/steps.py --run runs/debian --batch-size 8192 --device cuda  # share of the limit, memory, too
"""

import argparse
import inspect
import itertools
import json
import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_recall import optimisers, steps, training
from ssl_recall.features import Bags
from ssl_recall.steps import Step
from ssl_recall.towers import Tower, TwoTower, unit
from ssl_recall.training import StepLosses
from stages import models, processor, reader
from stages.fitting import VIEWS, load, objective_of
from stages.train import READS, train

PRODUCT = re.compile(r"aten::(mm|addmm_?|bmm|linear|mkldnn_linear)$")


def asked() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ssl", action="store_true", help="With as many items a step as interactions.")
    parser.add_argument("--ssl-every", type=int, default=1, help="Steps from one with the task to the next.")
    parser.add_argument("--further-negatives", type=int, default=0)
    parser.add_argument("--neighbours", action="store_true", help="With --ssl: of the items, as train has it.")
    parser.add_argument("--no-straight", action="store_true", help="Without the straight path, which no peer has.")
    parser.add_argument("--embedding-width", type=int, default=32)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--planners", type=int, help="Threads that plan the steps to come. [default: as train has it]")
    parser.add_argument("--profile", action="store_true", help="Print, too, what the steps' time goes into.")
    parser.add_argument(
        "--bound", action="store_true", help="Say, too, the bound of a step, and its share in products."
    )
    parser.add_argument("--precision", type=processor.Precision, default=processor.Precision.AUTO)
    options = parser.parse_args()
    if options.steps < options.ssl_every:
        parser.error("--steps must be at least --ssl-every, so that a round is whole")
    return options


def main() -> None:
    """Print one line of JSON, behind the profile where it is asked for: the median of the steps, after a few."""
    options = asked()
    device = torch.device(options.device)
    processor.use(options.threads, device)
    settings = settings_of(options, device)
    model, planner = ready(options, settings)
    planners = processor.planners(options.threads, device) if options.planners is None else options.planners
    every = steps_of(model, planner, planners)
    for _ in range(options.warm_up):
        next(every)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()  # of the trial of bf16
    median = step_seconds(every, options, device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    limit = products_a_second(device, bf16=settings["bf16"])
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
    how = {"bf16": settings["bf16"], "planners": planners, "device": options.device}
    print(
        json.dumps({"batch_size": options.batch_size, "threads": options.threads, "ssl": options.ssl, **how, **found})
    )


def settings_of(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Give what train would be set to."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(train).parameters.items()}
    return defaults | {
        "ssl": options.ssl,
        "ssl_batch_size": options.batch_size,
        "ssl_every": options.ssl_every,
        "ssl_neighbour_weight": 1.0 if options.neighbours else 0.0,
        "batch_size": options.batch_size,
        "further_negatives": options.further_negatives,
        "embedding_width": options.embedding_width,
        "hidden": options.hidden,
        "width": options.width,
        "bf16": processor.takes_bf16(options.precision, device),
    }


def ready(options: argparse.Namespace, settings: dict[str, Any]) -> tuple[TwoTower, steps.Planner]:
    """Read the run folder, and build the model on its device."""
    with reader.reading(options.run, (*READS, VIEWS)) as job:
        data, _ = load(job, settings)
        model = models.build(data.items, data.queries, job.read("features.parquet"), settings)
    if options.no_straight:
        for tower in (model.query, model.item):
            del tower.skip
            tower.vectors = without_straight_path(tower)  # type: ignore[method-assign]
    model.to(options.device)
    return model, steps.Planner(data, objective_of(settings), model, 1)


def steps_of(model: TwoTower, planner: steps.Planner, planners: int) -> Iterator[StepLosses]:
    """Train on and on, pass after pass."""
    steppers = training.optimisers(model, 0.001, 0.1, 1e-5)
    average = optimisers.RunningAverage(training.dense_weights(model), 0.99)
    for number in itertools.count():
        yield from training.train_epoch(model, steppers, planner, number, average, planners=planners)


def step_seconds(every: Iterator[StepLosses], options: argparse.Namespace, device: torch.device) -> float:
    """Time the steps: one by one on a processor, a few rounds at a time on a GPU, which works on while it is asked."""
    if device.type == "cuda":
        many = options.ssl_every * -(-training.CHECK // options.ssl_every)
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
    # a step with self-supervision costs more than one without: the mean over the medians of each place in a round
    whole = np.array(times[: len(times) // options.ssl_every * options.ssl_every]).reshape(-1, options.ssl_every)
    return float(np.median(whole, axis=0).mean())


def profile(every: Iterator[StepLosses], device: torch.device) -> tuple[str, float]:
    """Take sixteen steps more, and say which operations the time went into, and what share of it into products."""
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


def passes_of(planned: Step, model: TwoTower) -> float:
    """Count the bytes that a step must at least move through memory.

    The values' rows of the table, and again of the bags' gradient; the bags four times (pooled, and each gradient of
    them); the touched rows four times (gradient, accumulator, and the rows read and written). The logits are not
    counted: a block of them stays in the cache.
    """
    pooling = planned.pooling
    rows = 2 * len(pooling.rows) + 4 * len(pooling.starts) + 4 * len(pooling.touched)
    return 4.0 * model.embeddings.width * rows


def bytes_a_second(device: torch.device) -> float:
    """Measure the rate of a large copy, counting what is read and what is written."""
    source = torch.randn(2**24 if device.type == "cpu" else 2**28, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        target.copy_(source)[0].item()
        seconds.append(time.perf_counter() - start)
    return 2 * 4 * len(source) / float(min(seconds))


def products_a_second(device: torch.device, *, bf16: bool) -> float:
    """Measure the rate of a large matrix product, in floating-point operations a second."""
    dtype, size = torch.bfloat16 if bf16 else torch.float32, 4096 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def products_of(planned: Step, model: TwoTower) -> float:
    """Count the operations of a step's matrix products, forward and twice back: of both towers and the softmaxes."""
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
    """Give the tower's forward pass without the linear path, for a comparison of equal models."""

    def forward(pooled: torch.Tensor, _bags: Bags, _past: torch.Tensor | None = None) -> torch.Tensor:
        return unit(tower.layers(pooled.flatten(1)).float())

    return forward


if __name__ == "__main__":
    main()
