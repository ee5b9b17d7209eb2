"""Time every stage at two sizes, in turns with a reference library, and print one table.

    python benchmarks/bench.py                       # 100 k items, 1 M rows; 1 M items, 10 M rows
    python benchmarks/bench.py --sizes 10m           # 10 M items, 100 M rows
    python benchmarks/bench.py --peers tfrs=PYTHON librecommender=PYTHON rechub=PYTHON

A time is that of a whole process, start and reading included: the median of `--repeat` runs that alternate with the
reference. Memory is the largest peak of resident memory. torch has one thread by default; polars uses all cores.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import synthetic

HERE = Path(__file__).parent
SIZES = {"100k": (100_000, 1_000_000), "1m": (1_000_000, 10_000_000), "10m": (10_000_000, 100_000_000)}
CONFIG = """
[prepare]
interactions = "{folder}/interactions.parquet"
items = "{folder}/items.parquet"
query_id = "user_id"
timestamp = "timestamp"
queries_are_items = false
"""
Measured = tuple[float, float]  # seconds, peak GiB


MEASURE = """
import os, sys, time
started = time.perf_counter()
silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=silent)
_, status, usage = os.wait4(process, 0)
print(status, time.perf_counter() - started, usage.ru_maxrss)
"""


def measure(command: list[str]) -> Measured:
    """Run a command without its output; return its time and peak memory. Exits if the command fails.

    A small process starts the command, because the peak of a child is at least the memory of its parent at the start.
    """
    ran = subprocess.run([sys.executable, "-S", "-c", MEASURE, *command], stdout=subprocess.PIPE, text=True, check=True)
    status, seconds, kilobytes = ran.stdout.split()
    if int(status):
        sys.exit(f"{' '.join(command)}: failed")
    return float(seconds), int(kilobytes) / 2**20


def median(runs: list[Measured]) -> Measured:
    """Return the median of the seconds and the largest peak."""
    return statistics.median(seconds for seconds, _ in runs), max(peak for _, peak in runs)


def alternate(commands: list[list[str]], repeat: int) -> list[Measured]:
    """Run commands in turns, so that a slow minute of the machine affects all of them."""
    runs: list[list[Measured]] = [[] for _ in commands]
    for _ in range(repeat):
        for own, command in zip(runs, commands, strict=True):
            own.append(measure(command))
    return [median(own) for own in runs]


def reference(name: str, folder: Path) -> list[str]:
    """Return the command of a reference, a function of references.py."""
    return [sys.executable, str(HERE / "references.py"), name, str(folder)]


def stages(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Return the command of each stage and the name of its reference, in the order of the stages."""
    tool, run = str(Path(sys.executable).with_name("ssl-recall")), str(folder / "run")
    shared = ["--run", run, "--config", str(folder / "bench.toml"), "--force"]
    few = ["--epochs", "1", "--validation-queries", "500", "--no-ssl"]
    return {
        "prepare": ([tool, "prepare", *shared], "polars_prepare"),
        "compute-popularity": ([tool, "compute-popularity", *shared], "polars_group_by"),
        "compute-mi": ([tool, "compute-mi", *shared], "polars_pairs"),
        "build-views": ([tool, "build-views", *shared], ""),
        "train": ([tool, "train", *shared, *few], ""),
        "export-embeddings": ([tool, "export-embeddings", *shared, "--no-ssl"], ""),
    }


def bench_stages(name: str, repeat: int, only: list[str]) -> Iterator[dict[str, object]]:
    """Time the stages on a synthetic data set; write the data set if it does not exist."""
    items, interactions = SIZES[name]
    folder = Path(".bench") / name
    if not (folder / "interactions.parquet").exists():
        synthetic.write(folder, items, interactions)
    (folder / "bench.toml").write_text(CONFIG.format(folder=folder))
    for stage, (command, other) in stages(folder).items():
        if only and stage not in only:
            continue
        commands = [command, *([reference(other, folder)] if other else [])]
        (seconds, peak), *others = alternate(commands, repeat)
        row: dict[str, object] = {"size": name, "case": stage, "seconds": seconds, "peak_gib": peak}
        row["rate"] = (interactions if stage in {"prepare", "compute-popularity", "train"} else items) / seconds
        if others:
            row |= {"reference": other, "ratio": seconds / others[0][0], "reference_gib": others[0][1]}
        show(row)
        yield row


def show(row: dict[str, object]) -> None:
    """Print one line of the table."""
    other = f"{row['ratio']:8.2f} x {row['reference']}" if "reference" in row else ""
    print(
        f"{row['size']:<6} {row['case']:<22} {row['seconds']:9.2f} s {row['peak_gib']:7.2f} GiB "
        f"{row['rate']:14,.0f} rows/s {other}",
        flush=True,
    )


def bench_steps(run: Path, peers: dict[str, str], repeat: int, threads: int) -> Iterator[dict[str, object]]:
    """Time training steps of ssl-recall and of the peers, in turns, at two batch sizes."""
    for batch in (1024, 4096):
        shared = ["--run", str(run), "--batch-size", str(batch), "--threads", str(threads)]
        own = [sys.executable, str(HERE / "steps.py"), *shared]
        commands: dict[str, list[str]] = {
            "no SSL": own,
            "no SSL, no straight path": [*own, "--no-straight"],
            "the same in float32": [*own, "--no-straight", "--precision", "float32"],
            "SSL, M = B": [*own, "--ssl"],
            "SSL, M = B, every eighth step": [*own, "--ssl", "--ssl-every", "8"],
            "the same with neighbours": [*own, "--ssl", "--ssl-every", "8", "--neighbours"],
        }
        for name, python in peers.items():
            script = next(HERE.glob(f"peers/{name}*.py"))
            commands[script.stem] = [python, str(script), *shared]
            if name == "tfrs":
                commands[f"{script.stem} in bf16"] = [python, str(script), *shared, "--bf16"]
        found: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeat):
            for name, command in commands.items():
                found[name].append(rows_a_second(command))
        for name, rates in found.items():
            rate = statistics.median(rates)
            print(
                f"batch {batch:<6} {name:<30} {rate:12,.0f} rows/s  [{min(rates):,.0f}, {max(rates):,.0f}]", flush=True
            )
            yield {"size": str(batch), "case": name, "rate": rate, "low": min(rates), "high": max(rates)}


def rows_a_second(command: list[str]) -> float:
    """Run a script and return `rows_per_s` from its last line, which is JSON. Exits if the script fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    return float(json.loads(done.stdout.strip().splitlines()[-1])["rows_per_s"])


def main() -> None:
    """Print the tables, and append them to --output as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=["100k", "1m"])
    parser.add_argument("--only", nargs="*", default=[], help="Stages to time. [default: all]")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--run", type=Path, help="Prepared run folder; times training steps on it.")
    parser.add_argument("--peers", nargs="*", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--threads", type=int, default=2, help="Threads of the training steps.")
    parser.add_argument("--output", type=Path, help="File to append JSON lines to.")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {arguments.repeat} runs each")
    work = [bench_stages(size, arguments.repeat, arguments.only) for size in arguments.sizes]
    if arguments.run:
        peers = dict(peer.partition("=")[::2] for peer in arguments.peers)
        work.append(bench_steps(arguments.run, peers, arguments.repeat, arguments.threads))
    for row in itertools.chain.from_iterable(work):
        if arguments.output:
            with arguments.output.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
