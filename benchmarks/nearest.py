"""Time exact top 100 over 1 M vectors of width 64, in turns with faiss IndexFlatIP under any Python.

python benchmarks/nearest.py --faiss .venvs/faiss/bin/python --queries 10000
"""

import argparse
import json
import statistics
import subprocess
import sys

OURS = """
import sys, time, torch
from ssl_recall.evaluation import retrieval
from stages.learning import hardware
items, queries, threads = map(int, sys.argv[1:])
hardware.use(threads, torch.device("cpu"))
source = torch.Generator().manual_seed(0)
unit = lambda rows: torch.nn.functional.normalize(torch.randn(rows, 64, generator=source), dim=1)
corpus, asked = unit(items), unit(queries)
start = time.perf_counter()
found, _ = retrieval.top_k(asked, corpus, 100)
print(time.perf_counter() - start, found.sum().item())
"""
FAISS = """
import sys, time, faiss, torch
items, queries, threads = map(int, sys.argv[1:])
faiss.omp_set_num_threads(threads)
source = torch.Generator().manual_seed(0)
unit = lambda rows: torch.nn.functional.normalize(torch.randn(rows, 64, generator=source), dim=1).numpy()
corpus, asked = unit(items), unit(queries)
index = faiss.IndexFlatIP(64)
index.add(corpus)
start = time.perf_counter()
_, found = index.search(asked, 100)
print(time.perf_counter() - start, found.sum())
"""


def main() -> None:
    """Print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faiss", default=sys.executable, help="Python with faiss and torch.")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    sizes = [str(number) for number in (arguments.items, arguments.queries, arguments.threads)]
    seconds: dict[str, list[float]] = {"ours": [], "faiss": []}
    sums: dict[str, int] = {}
    for _ in range(arguments.repeat):
        for name, python, script in (("ours", sys.executable, OURS), ("faiss", arguments.faiss, FAISS)):
            done = subprocess.run([python, "-c", script, *sizes], capture_output=True, text=True, check=True)
            second, total = done.stdout.split()
            seconds[name].append(float(second))
            sums[name] = int(total)
    medians = {name: statistics.median(own) for name, own in seconds.items()}
    same = sums["ours"] == sums["faiss"]
    print(json.dumps(vars(arguments) | medians | {"ratio": medians["ours"] / medians["faiss"], "same_lists": same}))


if __name__ == "__main__":
    main()
