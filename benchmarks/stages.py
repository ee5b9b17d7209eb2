"""Time every stage on a run folder that exists: median seconds and peak memory of whole processes.

python benchmarks/stages.py --run runs/debian --config data/debian/ssl-recall.toml --repeat 3
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

STAGES = ("prepare", "compute-popularity", "compute-mi", "build-views", "train", "export-embeddings", "evaluate")


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command and give its wall seconds and peak resident memory in GiB. Exits when the command fails."""
    started = time.perf_counter()
    process = os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_CLOSE, 1)])
    _, status, usage = os.wait4(process, 0)
    if status:
        sys.exit(f"{' '.join(command)}: failed")
    return time.perf_counter() - started, usage.ru_maxrss / 2**20


def main() -> None:
    """Print one line a stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/debian"))
    parser.add_argument("--config", type=Path, default=Path("data/debian/ssl-recall.toml"))
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    tool = str(Path(sys.executable).with_name("ssl-recall"))
    print(f"{'stage':<20} {'median s':>9} {'min s':>7} {'max s':>7} {'peak GiB':>9}   {arguments.repeat} runs each")
    for stage in STAGES:
        command = [tool, stage, "--run", str(arguments.run), "--config", str(arguments.config), "--force"]
        runs = [measure(command) for _ in range(arguments.repeat)]
        seconds = [second for second, _ in runs]
        peak = max(memory for _, memory in runs)
        print(f"{stage:<20} {statistics.median(seconds):9.2f} {min(seconds):7.2f} {max(seconds):7.2f} {peak:9.2f}")


if __name__ == "__main__":
    main()
