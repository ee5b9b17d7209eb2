"""Plant each fault of mutants.toml in the code, and check that the tests fail: `make mutants`.

It plants one fault at a time in a copy of the tree and runs the named tests there. It fails if a fault survives its
tests, or if the old text of a fault does not occur exactly once.
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
TREE = ("ssl_recall", "stages", "tests", "data", "docs", ".ci", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Mutant:
    """A fault: `new` replaces `old` in `file`; `tests`, arguments of pytest, must fail."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def tested(tests: tuple[str, ...], tree: Path) -> tuple[int, str]:
    """Run tests on a tree; return the exit code of pytest and the end of its output."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-cov", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout[-300:]


def survives(mutant: Mutant, tree: Path, sound: dict[tuple[str, ...], tuple[int, str]]) -> str:
    """Run the tests with the fault; return how it survived, or an empty text if the tests failed.

    `sound` caches the result of tests without a fault: tests that fail then prove nothing.
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
    """Try all faults, or those whose description has all the words of the command line."""
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
