"""Measure the cost of safety: the seconds that a run spends on hashes, syncs, previous files and checkpoints.

    python benchmarks/overhead.py run --config data/debian/ssl-recall.toml --run runs/overhead

Runs a command of ssl-recall in this process and prints the share of the time that each kind of work took. A training
shorter than --checkpoint-seconds (300 s) saves no checkpoint: lower that setting, and read the seconds of one save.
"""

import functools
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from stages import cli
from stages.learning import checkpoints
from stages.run_folder import atomic_files, lock, manifest, previous_files, staleness

spent: defaultdict[str, float] = defaultdict(float)
calls: Counter[str] = Counter()
depth = 0


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function to count its seconds; a timed function inside another timed one is not counted again."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        global depth
        depth += 1
        start = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            depth -= 1
            if not depth:
                spent[name] += time.perf_counter() - start
                calls[name] += 1

    return call


def main() -> None:
    """Run the command and print the table."""
    for module, names in (
        (atomic_files, ("sha256", "sync", "sync_folder", "move_into_place", "sweep", "probe")),
        (lock, ("acquire",)),
        (previous_files, ("set_aside", "settle", "forget")),
        (manifest, ("read", "record")),
        (staleness, ("stale_reason",)),
    ):
        for name in names:
            setattr(module, name, timed(name, getattr(module, name)))
    checkpoints.Keeper.save = timed("checkpoint", checkpoints.Keeper.save)  # type: ignore[method-assign]
    start = time.perf_counter()
    try:
        cli.main()
    except SystemExit as stop:
        if stop.code:
            raise
    whole = time.perf_counter() - start
    for name, seconds in sorted(spent.items(), key=lambda of: -of[1]):
        each = seconds / calls[name]
        print(f"{name:<16} {calls[name]:>6} times {each:8.4f} s: {seconds:8.3f} s {seconds / whole:8.3%}")
    print(
        f"{'all of it':<16} {'':>25} {sum(spent.values()):8.3f} s {sum(spent.values()) / whole:8.3%} of {whole:.1f} s"
    )


if __name__ == "__main__":
    sys.argv[0] = "ssl-recall"
    main()
