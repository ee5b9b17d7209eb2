"""Put the faults of mutants.toml into the code, and see that the tests notice: `make mutants`.

Each is put into a copy of the tree, one at a time, and the named tests are run on it. One that they do not notice, or
whose old text is no longer there once, fails the command.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TREE = ("ssl_recall", "stages", "tests", "data", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Mutant:
    """A fault: `old` in `file` becomes `new`, and `tests`, arguments of pytest, are to fail."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def tested(tests: tuple[str, ...], tree: Path) -> tuple[int, str]:
    """Run tests on a tree: pytest's exit status, and the end of what it says."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-cov", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout[-300:]


def survives(mutant: Mutant, tree: Path, sound: dict[tuple[str, ...], tuple[int, str]]) -> str:
    """Run the tests on the tree with the fault in it; says how it survived, nothing where it did not.

    `sound` remembers how tests ended without any fault: one that fails then, too, has noticed nothing.
    """
    path = tree / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        return f"its text stands {text.count(mutant.old)} times in {mutant.file}"
    if mutant.tests not in sound:
        sound[mutant.tests] = tested(mutant.tests, tree)
    code, said = sound[mutant.tests]
    if code:
        return f"its tests end with {code} without it: {said}"
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        code, said = tested(mutant.tests, tree)
    finally:
        path.write_text(text)
    if code == 1:
        return ""
    return "all tests pass" if code == 0 else f"pytest ended with {code}: {said}"


def main() -> int:
    """Try all of them, or those whose description holds the words given."""
    listed = tomllib.loads(Path(__file__).with_name("mutants.toml").read_text())["mutant"]
    every = [Mutant(**entry | {"tests": tuple(entry["tests"])}) for entry in listed]
    wanted = [mutant for mutant in every if all(word in mutant.what for word in sys.argv[1:])]
    survivors = 0
    sound: dict[tuple[str, ...], tuple[int, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in TREE:
            source = ROOT / name
            shutil.copytree(source, tree / name) if source.is_dir() else shutil.copy(source, tree / name)
        for mutant in wanted:
            start = time.monotonic()
            how = survives(mutant, tree, sound)
            survivors += bool(how)
            ended = "SURVIVED" if how else "killed"
            print(f"{ended:<9}{time.monotonic() - start:5.1f} s  {mutant.what}  {how}", flush=True)
    print(f"{len(wanted) - survivors} of {len(wanted)} killed")
    return int(survivors > 0 or not wanted)


if __name__ == "__main__":
    sys.exit(main())
