"""README: run every command that it shows, in its order, on tables with its names."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl

from stages.experiments import arms
from stages.experiments.ablate import AblateSettings, ablate
from stages.experiments.tune import TuneSettings

ROOT = Path(__file__).parents[1]
SHORT = """
[tune]
trials = 2
[ablate]
seeds = 1
"""
MAKE = {"demo", "test"}  # continuous integration runs them, not the tests


ABLATION = "docs/ablation-and-tuning.md"  # whose commands run in the folder that README's have made


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def write_tables(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    items = pl.DataFrame(
        {
            "sku": [f"s{n}" for n in range(60)],
            "colour": [f"colour {n % 7}" for n in range(60)],
            "tags": [[f"t{n % 5}", f"t{n % 11}"] for n in range(60)],
            "price": rng.random(60),
        }
    )
    items.write_parquet(folder / "items.parquet")
    items.head(3).with_columns(sku=pl.col("sku") + "-new").write_parquet(folder / "new_items.parquet")
    log = pl.DataFrame(
        {
            "user": [f"u{n % 40}" for n in range(800)],
            "sku": [f"s{n}" for n in rng.zipf(1.5, 800) % 60],
            "day": range(800),
        }
    )
    log.rename({"day": "timestamp"}).write_parquet(folder / "interactions.parquet")


def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    write_tables(tmp_path / "my")
    commands = [
        line
        for block in (*blocks("bash"), *blocks("bash", ABLATION)[:1])
        for line in block.splitlines()
        if line and line[0] != "#"
    ]
    made = {command.split()[1] for command in commands if command.startswith("make ")}
    assert made == MAKE
    bash = [command for command in commands if not command.startswith(("make ", "source "))]
    assert len(bash) >= 8
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    for command in bash:
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if command.startswith("ssl-recall init"):
            settings = tmp_path / "ssl-recall.toml"
            assert "\n[train]\n" in settings.read_text()
            text = settings.read_text()
            for name, few in (("ssl_warmup_steps", 5), ("epochs", 3)):
                text, count = re.subn(rf"^(# )?{name} = \d+", f"{name} = {few}", text, flags=re.MULTILINE)
                assert count == 1
            settings.write_text(text + SHORT)
    for script in blocks("python"):
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    vectors = pl.read_parquet(tmp_path / "new.parquet")
    assert vectors["item_id"].to_list() == ["s0-new", "s1-new", "s2-new"]


def test_the_arms_and_the_numbers_of_trainings_are_those_of_the_commands() -> None:
    page, searched, compared = (ROOT / ABLATION).read_text(), TuneSettings(), AblateSettings()
    table = page[page.index("| arm | what it is |") :].split("\n\n")[0]
    named = [name for line in table.splitlines()[2:] for name in re.findall(r"`([a-z-]+)`", line.split("|")[1])]
    assert sorted(named) == sorted(arms.ARMS)
    assert set(named) <= set(re.findall(r"[a-z-]+", ablate.__doc__ or ""))
    trainings = {command: int(number) for command, number in re.findall(r"(tune|ablate) +# (\d+) trainings", page)}
    assert trainings == {"tune": 2 * searched.trials * searched.seeds, "ablate": len(arms.ARMS) * compared.seeds}


def test_every_make_target_that_the_readme_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets >= MAKE | {
        "check",
        "bench",
        "clean",
        "prepare",
        "popularity",
        "mi",
        "views",
        "train",
        "export",
        "evaluate",
    }
