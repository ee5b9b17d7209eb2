"""The documents say what the code says: settings, rule codes, decisions, links."""

import ast
import math
import re
import subprocess
import sys
from pathlib import Path
from statistics import stdev

import polars as pl
import pytest

from stages.terminal.advice import SEED_SPREAD

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "data" / "README.md", *DOCS.rglob("*.md")])
NO_RULE = {"BOOLEAN", "BYTE_ARRAY", "FLOAT", "INT32", "PAR1"}  # Parquet's
NO_RULE |= {"ALS", "EASE"}  # baselines
NO_RULE |= {"DEFAULT_MAP", "DUP_", "ITEM", "SSL", "SSL_RECALL_ANY_MEMORY"}
BUILT = {"DUP_ITEM_ID", "DUP_ITEMS_ID", "DUP_QUERY_ID", "DUP_QUERIES_ID"}  # made of a flag's name


def rules_of_the_code() -> set[str]:
    """Every rule code: the texts of stages/ that are, or begin with, a word in capitals; not those of NO_RULE."""
    found = set(BUILT)
    for path in (ROOT / "stages").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = re.match(r"([A-Z][A-Z0-9_]{2,})(?=$|: )", node.value)
                found |= {named[1]} if named else set()
    return found - NO_RULE


def test_the_page_of_errors_lists_every_rule_code_and_no_other() -> None:
    page = (DOCS / "errors.md").read_text()
    listed = re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \|", page, re.M)
    assert len(listed) == len(set(listed))
    assert set(listed) == rules_of_the_code()


def test_the_page_of_settings_is_that_of_the_dataclasses() -> None:
    done = subprocess.run([sys.executable, ROOT / ".ci" / "settings_page.py", "--check"], check=False)
    assert done.returncode == 0, "run: make docs"


def test_the_index_of_decisions_names_every_decision_in_order() -> None:
    index = (DOCS / "decisions" / "README.md").read_text()
    named = re.findall(r"\((\d{4}-[a-z0-9-]+\.md)\)", index)
    assert named == sorted(path.name for path in (DOCS / "decisions").glob("[0-9]*.md"))
    for name in named:
        title = (DOCS / "decisions" / name).read_text().splitlines()[0]
        assert title.startswith(f"# {name[:4]} "), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_figures_have_their_zero(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    assert not re.findall(r"(?<![\w.)/])[+-]?\.\d{2,}", text)


def test_the_readme_is_at_most_120_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_source_file_that_a_page_names_is_there() -> None:
    for page in PAGES:
        for name in re.findall(
            r"`((?:ssl_recall|stages|tests|benchmarks)/[\w/.-]+\.(?:py|md|toml))`", page.read_text()
        ):
            assert (ROOT / name).exists(), f"{page.relative_to(ROOT)}: {name}"


def test_the_allowance_for_the_seeds_is_the_spread_in_the_results() -> None:
    spread = dict.fromkeys(SEED_SPREAD, 0.0)
    for path in (ROOT / "benchmarks" / "results").glob("ablation-*.parquet"):
        rows = pl.read_parquet(path).filter(metric="recall", k=50, seeds=5).iter_rows(named=True)
        recall = {(row["arm"], row["slice"]): row["by_seed"] for row in rows}
        for part in spread:
            if ("ssl", part) in recall:
                changes = [new - old for new, old in zip(recall["ssl", part], recall["no-ssl", part], strict=True)]
                spread[part] = max(spread[part], stdev(changes))
    assert {part: math.ceil(2000 * value) / 1000 for part, value in spread.items()} == SEED_SPREAD
    page = (DOCS / "method.md").read_text()
    assert all(f"{value} of" in page for value in SEED_SPREAD.values())
