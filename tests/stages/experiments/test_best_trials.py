"""The best trials of tune, as lines for the settings file."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages import cli
from stages.experiments import arms, best_trials
from stages.experiments import tune as stage
from stages.learning.arm import Arm
from stages.learning.popularity_settings import PopularitySettings
from stages.learning.settings import TrainSettings
from stages.learning.view_settings import Transform, ViewSettings

from .test_tune import rows, tune, untrained  # noqa: F401, a fixture


def printed(*flags: str) -> dict[str, str]:
    """Run tune, and return its stdout by arm."""
    result = CliRunner().invoke(cli.app, ["tune", *flags])
    assert result.exit_code == 0, result.output
    return {block.split(":")[0]: block for block in result.stdout.removeprefix("# ").split("\n# ")}


@pytest.mark.usefixtures("untrained")
def test_what_was_found_is_printed_for_the_settings_file(shop: Path) -> None:
    found = printed("--arm", "no-ssl", "--arm", "value-dropout", "--trials", "4")
    assert list(found) == ["no-ssl", "value-dropout"]
    assert printed("--arm", "value-dropout", "--arm", "no-ssl", "--trials", "4") == found  # up to date
    for arm, block in found.items():
        (best,) = [row for row in rows(shop, arm) if row["best"]]
        first, _, text = block.partition("\n")
        assert first.startswith(
            f"{arm}: trial {best['trial']}, {best['value']:.4f} balanced; to keep it, put these lines under"
        )
        told = tomllib.loads(text)
        of_arm = {"transform": "dropout", "ssl_neighbour_weight": 0.0, "ssl_warmup_steps": 0, "ssl_every": 1}
        own = {"batch_size": 32, "embedding_width": 8, "further_negatives": 16, "id_dropout": 0.1, "value_dropout": 0.3}
        expected = json.loads(best["settings"]) | (of_arm if arm == "value-dropout" else {})
        in_tables = told["train"] | told.get("build_views", {})
        assert in_tables == {
            name: pytest.approx(value, rel=5e-4) if isinstance(value, float) else value
            for name, value in expected.items()
            if value != own.get(name)
        }
        assert told.get("build_views", {}).keys() == ({"transform", "value_dropout"} & in_tables.keys())
    assert re.search(r"^temperature = 0\.\d{1,5}$", found["no-ssl"], re.MULTILINE)


@pytest.mark.usefixtures("untrained")
def test_pasted_into_the_settings_file_what_was_found_is_what_it_says(shop: Path) -> None:
    (shop / "ssl-recall.toml").rename(shop / "mine.toml")
    block = printed("--arm", "no-ssl", "--trials", "4", "--config", "mine.toml")["no-ssl"]
    assert "under their tables in mine.toml (four digits)" in block
    (shop / "ssl-recall.toml").write_text(f"run = 'run'\n{block[block.index('[train]') :]}epochs = 2\n")
    tune("--arm", "no-ssl", "--trials", "1")
    told = tomllib.loads(block[block.index("[train]") :])["train"]
    first = json.loads(rows(shop, "no-ssl")[0]["settings"])
    assert {name: told[name] for name in told if name in first}.items() <= first.items()
    assert printed("--arm", "no-ssl", "--trials", "1")["no-ssl"].endswith("balanced; the current settings\n")


def test_an_arm_of_which_every_trial_failed_has_nothing_to_keep(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "validate", lambda candidate: None)
    assert printed("--arm", "no-ssl", "--trials", "2") == {"no-ssl": "no-ssl: every trial failed\n"}


def test_lists_and_names_are_written_as_toml_has_them() -> None:
    settings = TrainSettings(hidden=[64, 32], ssl=False, threads=1, logq=False, temperature=1.23456e-05)
    arm = Arm("mine", settings, ViewSettings(transform=Transform.DROPOUT), frozenset())
    plain = arms.Plain(ViewSettings(), TrainSettings(threads=4), PopularitySettings())
    assert tomllib.loads("\n".join(best_trials.toml(arm, plain))) == {
        "build_views": {"transform": "dropout"},
        "train": {"hidden": [64, 32], "logq": False, "temperature": 1.235e-05},
    }


@pytest.mark.parametrize(
    ("best", "file", "expected"),
    [
        (12.5, None, ["[compute_popularity]", "half_life = 12.5"]),
        (None, 12.5, ["[compute_popularity]", "# half_life: remove it"]),
        (12.5, 12.5, []),
        (None, None, []),
    ],
)
def test_a_half_life_is_a_line_of_compute_popularity(
    best: float | None, file: float | None, expected: list[str]
) -> None:
    arm = Arm("mine", TrainSettings(), None, frozenset()).tuned({"half_life": best})
    plain = arms.Plain(ViewSettings(), TrainSettings(), PopularitySettings(half_life=file))
    assert list(best_trials.toml(arm, plain)) == expected
