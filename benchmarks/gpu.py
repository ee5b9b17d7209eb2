"""Time training steps on one GPU by batch size: rows per second, share of the matrix limit, memory.

python benchmarks/gpu.py --run runs/debian  # prepared up to build-views; minutes; writes benchmarks/results/gpu.jsonl
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
SSL = ("--ssl", "--neighbours", "--ssl-every", "8")  # the defaults of train, with one item per interaction


def main() -> None:
    """Print a Markdown table with one row per batch size; measure each case in a new process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1024, 4096, 8192, 32768, 65536])
    parser.add_argument("--output", type=Path, default=HERE / "results" / "gpu.jsonl")
    options = parser.parse_args()
    where = torch.cuda.get_device_name() if options.device != "cpu" else "a processor"
    print(f"{where}, torch {torch.__version__}\n")
    print("| batch | ms a step | rows a second | share of the limit | GiB | with SSL: ms a step | times | GiB |")
    print("|" + " ---: |" * 8)
    lines = []
    for size in options.batch_size:
        without, with_ssl = (measured(options, size, more) for more in ((), SSL))
        lines += [json.dumps(found | {"on": where}) + "\n" for found in (without, with_ssl)]
        cells = (
            f"{size:,}",
            f"{without['step_ms']:.1f}",
            f"{without['rows_per_s']:,.0f}",
            f"{without['share_of_limit']:.1%}",
            f"{without['peak_gib']:.2f}",
            f"{with_ssl['step_ms']:.1f}",
            f"{with_ssl['step_ms'] / without['step_ms']:.2f}",
            f"{with_ssl['peak_gib']:.2f}",
        )
        print("| " + " | ".join(cells) + " |", flush=True)
    options.output.write_text("".join(lines))


def measured(options: argparse.Namespace, size: int, more: tuple[str, ...]) -> dict[str, Any]:
    """Return the JSON of steps.py for one batch size."""
    command = [sys.executable, str(HERE / "steps.py"), "--run", str(options.run), "--device", options.device]
    sizes = ["--batch-size", str(size), "--threads", "1", "--steps", "64", "--warm-up", "32"]
    printed = subprocess.run([*command, *sizes, *more], check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
