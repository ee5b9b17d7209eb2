"""The layout keeps its rules, and `.ci/house.py` notices each one that is broken."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def house(root: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, ROOT / ".ci" / "house.py", root]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the two packages."""
    for name in ("ssl_recall", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_layout_breaks_no_rule() -> None:
    found = house(ROOT)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("file", "planted", "said"),
    [
        ("ssl_recall/losses.py", "def late() -> None:\n    from ssl_recall.training import loop\n", "import circle"),
        (
            "stages/run_folder/layout.py",
            "if TYPE_CHECKING:\n    from stages.run_folder.job import Job\n",
            "import circle: ",
        ),
        (
            "stages/train.py",
            "def late() -> None:\n    import importlib\n    importlib.import_module('x')\n",
            "the job imports the job",
        ),
        ("stages/train.py", "from stages.evaluate import evaluate\n", "the job imports the job stages.evaluate"),
        ("stages/learning/fit.py", "from stages.prepare import PART\n", "the wing imports the job stages.prepare"),
        ("stages/learning/fit.py", 'NAME = "items.parquet"\n', "names items.parquet"),
        ("stages/learning/fit.py", 'NAME = f"no-ssl/model/weights.safetensors{1}"\n', "weights.safetensors"),
        (
            "stages/learning/fit.py",
            "def f(settings: dict[str, Any]) -> None: ...\n",
            "takes settings as dict[str, Any]",
        ),
        ("ssl_recall/popularity.py", "# a line\n" * 300, "lines, at most 300"),
        ("ssl_recall/popularity.py", "def f() -> None:\n" + "    pass\n" * 61, "f has 62 lines, at most 60"),
    ],
)
def test_a_planted_fault_is_noticed(tree: Path, file: str, planted: str, said: str) -> None:
    with (tree / file).open("a") as opened:
        opened.write(f"\n{planted}")
    found = house(tree)
    assert found.returncode == 1
    assert said in found.stdout
