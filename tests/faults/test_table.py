"""The table of README.md names a test for every fault, and all of them exist."""

import subprocess
import sys
from pathlib import Path


def test_every_fault_has_a_test_and_the_table_names_them_all() -> None:
    checked = subprocess.run(
        [sys.executable, Path(__file__).with_name("table.py"), "--check"], check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, f"{checked.stdout}; run: python tests/faults/table.py"
