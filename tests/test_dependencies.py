"""Dependencies: the lowest versions, the lock file, and the report of an audit, also without a network."""

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WANTED = [Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"])]
BLIND = {"name": "rich", "skip_reason": "not found"}
SOUND = {"name": "numpy", "version": "2.0", "vulns": []}
HOLE = {"name": "torch", "version": "2.5", "vulns": [{"id": "CVE-1", "fix_versions": ["2.6"]}]}


def test_versions_with_known_holes_are_below_the_floors() -> None:
    floors = {wanted.name: wanted.specifier for wanted in WANTED}
    assert "2.10" not in floors["torch"]
    assert "23.0.0" not in floors["pyarrow"]


def test_the_lock_file_has_a_version_that_will_do_and_hashes_of_everything_but_torch() -> None:
    blocks = re.split(r"\n(?=[a-z])", (ROOT / "requirements.lock").read_text())
    locked = {}
    for block in blocks:
        if named := re.match(r"([A-Za-z0-9._-]+)==(\S+) ", block):
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), named[1]
            locked[canonicalize_name(named[1])] = named[2]
    for wanted in WANTED:
        if wanted.name != "torch":
            assert locked[canonicalize_name(wanted.name)] in wanted.specifier, wanted.name
    assert "torch" not in locked


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([SOUND], 0, "1 of 1 packages were looked up, 0 known holes"),
        ([SOUND, HOLE], 1, "torch 2.5: CVE-1, mended in 2.6"),
        ([BLIND], 0, "0 of 1 packages were looked up"),
        ([SOUND, BLIND], 0, "WARNING: could not be looked up: rich"),
    ],
)
def test_an_audit_says_how_much_it_could_look_up(
    audit: ModuleType, found: list[dict[str, Any]], code: int, said: str
) -> None:
    ended, lines = audit.verdict(json.dumps({"dependencies": found}), "")
    assert ended == code
    assert said in "\n".join(lines)


def test_an_audit_without_a_network_is_a_warning_with_its_reason(audit: ModuleType) -> None:
    assert audit.verdict("", "Traceback\nConnectionError: no route\n") == (
        0,
        ["WARNING: nothing was audited: ConnectionError: no route"],
    )
