"""Train other libraries on a prepared run folder, with a few settings each, and record their recall.

    python benchmarks/quality/peers.py --run runs/debian --data debian --peers tfrs=PYTHON implicit-als=PYTHON

Each peer runs under its own PYTHON; the docstring of its script in benchmarks/peers lists the packages. All peers have
the widths and the number of training rows of ssl-recall. Every epoch of every setting is a trial; score.py picks the
best trial on the validation pairs.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

TOWERS = ("--widths", "256", "64", "--embedding-width", "32")
ADAM: list[tuple[float, ...]] = [(256, 0.001), (256, 0.003), (1024, 0.001), (1024, 0.003)]
PEERS: dict[
    str, tuple[str, tuple[str, ...], list[tuple[float, ...]]]
] = {  # peer: script, flags, and the settings (batch size, learning rate), one training each
    "tfrs": (
        "tfrs_retrieval.py",
        TOWERS,
        [*((256, r) for r in (0.003, 0.01, 0.03)), *((1024, r) for r in (0.01, 0.03, 0.1))],
    ),
    "implicit-als": ("implicit_als.py", (), [()]),
    "librecommender": ("librecommender_two_tower.py", TOWERS, ADAM),
    "librecommender-cfm": ("librecommender_two_tower.py", (*TOWERS, "--ssl"), ADAM),
    "rechub": ("rechub_dssm.py", TOWERS, ADAM),
    "rechub-tempered": ("rechub_dssm.py", (*TOWERS, "--use-temperature"), ADAM),
}


def main() -> None:
    """Train and score the peers one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--fraction", type=float, default=1.0)
    parser.add_argument("--peers", nargs="+", required=True, help="NAME=PYTHON, NAME one of " + ", ".join(PEERS))
    parser.add_argument("--only", type=int, nargs="+", help="Indices of the settings of each peer, from 0.")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--save", type=Path, default=Path("runs/peers"), help="Folder of the vectors.")
    options = parser.parse_args()
    folder = Path(__file__).parent
    for name, python in (peer.split("=", 1) for peer in options.peers):
        script, common, settings = PEERS[name]
        vectors = options.save / f"{options.data}-{options.fraction:g}-{name}"
        for number, values in enumerate(settings):
            if options.only and number not in options.only:
                continue
            flags = [str(part) for pair in zip(("--batch-size", "--rate"), values, strict=False) for part in pair]
            flags += ["--epochs", str(options.epochs)] if values else []
            command = [python, folder.parent / "peers" / script, "--run", options.run, "--threads", "1"]
            start = time.perf_counter()
            subprocess.run(
                [*command, "--save", vectors, *common, *flags], check=True, env=os.environ | {"TQDM_DISABLE": "1"}
            )
            print(f"{name} {' '.join(map(str, values))}: {time.perf_counter() - start:.0f} s", flush=True)
        about = ["--data", options.data, "--fraction", str(options.fraction), "--name", name]
        subprocess.run(
            [sys.executable, folder / "score.py", "--run", options.run, "--vectors", vectors, *about], check=True
        )


if __name__ == "__main__":
    main()
