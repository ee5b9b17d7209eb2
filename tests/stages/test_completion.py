"""`--install-completion` writes a script for the shell, and completion knows every command and flag."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(sys.executable).with_name("ssl-recall")


def test_install_completion_writes_the_script_of_the_shell(tmp_path: Path) -> None:
    environment = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run([TOOL, "--install-completion", "bash"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert "_SSL_RECALL_COMPLETE=complete_bash" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize(
    ("words", "offered"),
    [("ssl-recall compute-", ["compute-popularity", "compute-mi"]), ("ssl-recall train --ssl-we", ["--ssl-weight"])],
)
def test_commands_and_flags_are_completed(words: str, offered: list[str], tmp_path: Path) -> None:
    asked = {"_SSL_RECALL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run([TOOL], env=os.environ | asked, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == offered
