"""tune: equal numbers of trials per arm, on the validation interactions alone, resumed by a later call."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import polars as pl
import pytest

from stages.experiments import search_space
from stages.experiments import tune as stage
from stages.run_folder.job import Job
from stages.run_folder.layout import CONTRACT
from stages.terminal.errors import ArtifactError, InputError, SettingsError

from .test_ablate import ablate, about, append


def tune(*flags: str) -> str:
    return ablate(*flags, command="tune")


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace training: every trial is better than the one before, and takes no time."""
    monkeypatch.setattr(
        stage, "validate", lambda candidate: recalls(candidate.number / 100) | {"epochs": 1, "seconds": 1.0}
    )


def recalls(value: float) -> dict[str, float]:
    names = ("recall", "recall_all", "recall_head", "recall_tail", "recall_cold", "recall_balanced")
    return dict.fromkeys(names, value)


def rows(folder: Path, arm: str) -> list[dict[str, Any]]:
    found = pl.read_parquet(folder / "run" / "tuning.parquet").filter(arm=arm).drop("seconds")
    return list(found.iter_rows(named=True))


def test_each_arm_has_its_trials_and_the_first_is_the_settings_file_s(shop: Path) -> None:
    (shop / "run" / "test.parquet").unlink()  # tune does not read it
    said = tune("--trials", "3")
    assert said.count(" trial ") == 6
    for arm, ssl in (("no-ssl", False), ("ssl", True)):
        found = rows(shop, arm)
        assert [row["trial"] for row in found] == [0, 1, 2]
        settings = [json.loads(row["settings"]) for row in found]
        own = {"batch_size": 32, "embedding_width": 8, "temperature": 0.05, "further_negatives": 16}
        assert own.items() <= settings[0].items()  # the plain space has neither 8 nor 16
        assert ("mask_rate" in settings[0]) == ssl
        assert all(one.keys() == settings[0].keys() for one in settings)
        best = [row for row in found if row["best"]]
        assert len(best) == 1
        assert best[0]["value"] == max(row["value"] for row in found) >= found[0]["value"]
        sides = [best[0]["recall_head"], best[0]["recall_tail"]]
        assert best[0]["value"] == pytest.approx(sum(sides) / 2)


def test_a_search_in_two_calls_is_one_in_a_single_call(shop: Path) -> None:
    tune("--arm", "no-ssl", "--trials", "2")
    said = tune("--arm", "no-ssl", "--trials", "2")
    assert "up to date" in said
    assert " trial " not in said
    assert tune("--arm", "no-ssl", "--trials", "4").count(" trial ") == 2
    assert " trial " not in tune("--arm", "no-ssl", "--trials", "3")  # fewer than the finished ones
    in_parts = rows(shop, "no-ssl")
    assert tune("--arm", "no-ssl", "--trials", "4", "--force").count(" trial ") == 4
    assert rows(shop, "no-ssl") == in_parts


def test_what_was_stopped_in_the_middle_is_not_counted(shop: Path) -> None:
    tune("--arm", "no-ssl", "--trials", "4")
    whole = rows(shop, "no-ssl")
    tune("--arm", "no-ssl", "--trials", "2", "--force")
    path = shop / "run" / "tuning" / "no-ssl.journal"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    (summary,) = optuna.get_all_study_summaries(storage)
    optuna.load_study(study_name=summary.study_name, storage=storage).ask()
    with path.open("ab") as file:
        file.write(b'{"op_code":')
    path.with_name("no-ssl.journal.lock").symlink_to(path)
    assert tune("--arm", "no-ssl", "--trials", "4").count(" trial ") == 2
    assert rows(shop, "no-ssl") == whole


def test_workers_share_the_trials_out(shop: Path) -> None:
    tune("--arm", "random-mask", "--trials", "3", "--jobs", "2", "--seeds", "2")
    found = rows(shop, "random-mask")
    assert [row["trial"] for row in found] == [0, 1, 2]
    assert found[0]["epochs"] == 4  # two seeds of two
    assert len({row["settings"] for row in found}) == 3


def test_other_settings_begin_afresh_and_an_arm_that_is_not_asked_for_stays(shop: Path) -> None:
    tune("--trials", "2")
    kept = rows(shop, "no-ssl")
    append(shop, "\n[ablate.arms.random-mask]\nvariants = 3\n")
    assert tune("--arm", "random-mask", "--trials", "2").count(" trial ") == 2
    assert rows(shop, "no-ssl") == kept
    assert len(rows(shop, "random-mask")) == 2
    append(shop, "\n[evaluate]\nk = [5]\n")
    assert "up to date" in tune("--arm", "random-mask", "--trials", "2")


def test_a_trial_whose_loss_is_no_number_has_failed(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wild = {"choices": [n * 1e27 for n in range(100, 1100)]}  # and the current value, which is hardly ever drawn again
    monkeypatch.setitem(search_space.SPACE, "learning_rate", wild)
    said = tune("--arm", "no-ssl", "--trials", "3")
    assert said.count("failed, the loss is not finite") == 2
    found = rows(shop, "no-ssl")
    assert [row["value"] is None for row in found] == [False, True, True]
    assert [row["best"] for row in found] == [True, False, False]
    assert "up to date" in tune("--arm", "no-ssl", "--trials", "3")


def test_ablate_takes_the_best_trial_but_for_what_makes_the_arm(shop: Path) -> None:
    tune("--trials", "2", "--arm", "random-mask", "--arm", "no-ssl")
    path = shop / "run" / "tuning.parquet"
    best = pl.read_parquet(path).filter(pl.col("best"), pl.col("arm") == "random-mask")
    settings = json.loads(best["settings"][0])
    flags = ("--arm", "random-mask", "--arm", "correlated", "--seeds", "1", "--k", "3")
    said = ablate(*flags)
    assert "correlated: take the settings of no-ssl, while others are tuned themselves" in said
    told = about(shop, "random-mask")
    assert settings.items() <= (told["train"] | told["views"]).items()
    base = pl.read_parquet(path).filter(pl.col("best"), pl.col("arm") == "no-ssl")["settings"][0]
    assert json.loads(base).items() <= about(shop, "correlated")["train"].items()
    assert (
        "Tuned: no-ssl, random-mask; the others take the settings of no-ssl."
        in (shop / "run" / "ablation.md").read_text()
    )
    ablate(*flags, "--no-tuned")
    assert about(shop, "random-mask")["train"]["embedding_width"] == 8
    assert "Tuned: none." in (shop / "run" / "ablation.md").read_text()
    append(shop, "\n[ablate.arms.random-mask]\ntemperature = 0.07\n")
    ablate(*flags)
    told = about(shop, "random-mask")
    assert told["train"]["temperature"] == 0.07
    assert told["train"]["learning_rate"] == settings["learning_rate"]


def test_ssl_without_a_part_takes_what_was_found_for_ssl(shop: Path, untrained: None) -> None:
    tune("--trials", "3")
    best = pl.read_parquet(shop / "run" / "tuning.parquet").filter("best")
    settings = {row["arm"]: json.loads(row["settings"]) for row in best.iter_rows(named=True)}
    flags = ("--arm", "no-warm-up", "--arm", "no-neighbours", "--arm", "ssl", "--seeds", "1", "--k", "3")
    assert "while others are tuned" not in ablate(*flags)
    own = about(shop, "ssl")
    assert settings["ssl"].items() <= (own["train"] | own["views"]).items()
    for arm, off in (("no-warm-up", {"ssl_warmup_steps": 0}), ("no-neighbours", {"ssl_neighbour_weight": 0.0})):
        told = about(shop, arm)
        assert told["train"] == own["train"] | off
        assert told["views"] == own["views"]
    assert (
        "Tuned: no-ssl, ssl; no-warm-up takes the settings of ssl; no-neighbours takes the settings of ssl; the others"
        in (shop / "run" / "ablation.md").read_text()
    )
    tune("--trials", "3", "--arm", "no-ssl", "--arm", "spread-out", "--force")
    (shop / "run" / "tuning" / "ssl.journal").unlink()
    tune("--trials", "2", "--arm", "no-ssl", "--arm", "spread-out")
    assert "no-warm-up: take the settings of no-ssl, while others" in ablate(
        "--arm", "no-warm-up", "--arm", "spread-out", "--seeds", "1", "--k", "3"
    )


def test_both_commands_keep_to_the_contract(shop: Path) -> None:
    tune("--trials", "1", "--arm", "no-ssl")
    ablate("--arm", "random-mask", "--seeds", "1", "--k", "3")
    kinds: dict[str, Any] = {
        "list<float64>": pl.List(pl.Float64),
        "string": pl.String,
        "bool": pl.Boolean,
        "int32": pl.Int32,
        "int64": pl.Int64,
        "float64": pl.Float64,
    }
    for name in ("tuning.parquet", "ablation.parquet"):
        schema = pl.read_parquet_schema(shop / "run" / name)
        assert list(schema.items()) == [(column, kinds[kind]) for column, kind in CONTRACT[name].columns.items()]
    stages = json.loads((shop / "run" / "manifest.json").read_text())["stages"]
    for command in ("tune", "ablate"):
        assert stages[command]["inputs"].keys() == {n for n, file in CONTRACT.items() if command in file.readers}


def test_a_slice_that_is_not_held_out_cannot_be_selected_on(shop: Path) -> None:
    run = shop / "run"
    counts = pl.read_parquet(run / "popularity.parquet")["count"]
    held = pl.read_parquet(run / "validation.parquet")
    held = held.filter(counts.gather(held["item_index"]) > 0)
    names = ("items", "features", "vocabulary", "queries", "train", "test")
    tables = {name: pl.read_parquet(run / f"{name}.parquet") for name in names} | {"validation": held}
    with Job(run, "prepare", {}, writes=[f"{name}.parquet" for name in tables], force=True) as job:
        for name, frame in tables.items():
            job.write(f"{name}.parquet", frame)
    for command in ("compute-popularity", "compute-mi"):
        ablate(command=command)
    with pytest.raises(InputError, match="no cold item to rate a trial by"):
        tune("--trials", "1", "--select-on", "cold", "--arm", "no-ssl")


def test_without_optuna_the_way_out_is_named(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SettingsError, match=r"NO_OPTUNA: tune needs Optuna; run: pip install 'optuna>=4'"):
        tune()


def journal(folder: Path, arm: str) -> list[optuna.Study]:
    """Return every study in the journal of an arm, as Optuna reads it."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "run" / "tuning" / f"{arm}.journal"))
    storage = optuna.storages.JournalStorage(backend)
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    return [optuna.load_study(study_name=name, storage=storage) for name in names]


def test_the_first_trial_is_what_optuna_is_told_however_far_from_the_space(shop: Path, untrained: None) -> None:
    odd = {"temperature": 0.5, "id_dropout": 0.9, "further_negatives": 7, "initial_accumulator": 0.0}
    append(shop, "temperature = 0.5\nid_dropout = 0.9\ninitial_accumulator = 0\n")
    settings = shop / "ssl-recall.toml"
    settings.write_text(settings.read_text().replace("further_negatives = 16", "further_negatives = 7"))
    tune("--trials", "2")
    for arm in ("no-ssl", "ssl"):
        (study,) = journal(shop, arm)
        assert [trial.params for trial in study.trials] == [json.loads(row["settings"]) for row in rows(shop, arm)]
        first = study.trials[0].params
        assert {name: first[name] for name in odd if name != "initial_accumulator"} | odd == odd
        assert "initial_accumulator" not in first  # off: a logarithmic scale has no 0
    assert first["ssl_batch_size"] == 16
    assert first["ssl_warmup_steps"] == 3


def test_a_short_log_is_searched_with_the_own_batch_alone(shop: Path, untrained: None) -> None:
    tune("--arm", "no-ssl", "--trials", "3")
    assert {json.loads(row["settings"])["batch_size"] for row in rows(shop, "no-ssl")} == {32}


def test_another_space_is_another_study(shop: Path, untrained: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tune("--arm", "no-ssl", "--trials", "1")
    monkeypatch.setitem(search_space.SPACE, "embedding_width", {"choices": (16, 128)})
    assert tune("--arm", "no-ssl", "--trials", "2").count(" trial ") == 2
    assert [len(study.trials) for study in journal(shop, "no-ssl")] == [1, 2]


def test_of_equal_trials_the_first_is_the_best(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "validate", lambda candidate: recalls(0.5) | {"epochs": 1, "seconds": 1.0})
    tune("--arm", "no-ssl", "--trials", "3")
    assert [row["best"] for row in rows(shop, "no-ssl")] == [True, False, False]


def test_a_damaged_journal_is_named_with_the_way_out_and_nothing_of_it_is_lost(shop: Path, untrained: None) -> None:
    tune("--arm", "no-ssl", "--trials", "2")
    before = rows(shop, "no-ssl")
    path = shop / "run" / "tuning" / "no-ssl.journal"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    inserted = (
        b"garbage\n",
        b"\xff\xfe\x00\n",
        b"\n",
        b"3\n",
        b"[]\n",
        b"{}\n",
        b'{"op_code":99}\n',
        b'{"op_code":4}\n',
    )
    damaged = [b"".join([*lines[:at], one, *lines[at:]]) for one in inserted for at in (0, 5, len(lines))]
    damaged += [whole.replace(b'"value":0.01', b'"valve":0.01'), whole.replace(b'"settings":{', b'"set":{')]
    damaged += [whole.replace(b"FloatDistribution", b"FleetDistribution"), whole + b"PAR1", bytes(range(256)) * 9, b"x"]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ArtifactError) as caught:
            tune("--arm", "no-ssl", "--trials", "3")
        assert str(caught.value) == (
            "CORRUPT: run/tuning/no-ssl.journal: damaged, or no journal of a search; remove it, and this arm's search "
            "begins again with: ssl-recall tune --run run"
        )
        assert path.read_bytes().startswith(content), content[-300:]
    path.unlink()
    path.mkdir()
    with pytest.raises(ArtifactError, match=r"no-ssl\.journal: damaged"):
        tune("--arm", "ssl", "--trials", "1")
    path.rmdir()
    path.touch()  # an empty journal is valid
    tune("--arm", "no-ssl", "--trials", "2", "--force")
    assert rows(shop, "no-ssl") == before


@pytest.mark.parametrize("flags", [("--seeds", "2"), ("--select-on", "tail"), ("--seed", "2")])
def test_a_trial_of_another_kind_is_tried_again(
    shop: Path, flags: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = recalls(0.5) | {"recall_tail": 0.3, "epochs": 1, "seconds": 1.0}
    monkeypatch.setattr(stage, "validate", lambda candidate: found)
    assert tune("--arm", "no-ssl", "--trials", "2").count(" trial ") == 2
    assert tune("--arm", "no-ssl", "--trials", "2", *flags).count(" trial ") == 2
    assert [row["value"] for row in rows(shop, "no-ssl")] == [0.3 if "tail" in flags else 0.5] * 2


def test_the_value_of_a_trial_is_the_mean_over_its_seeds(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        stage, "trained", lambda job, arm, place: SimpleNamespace(curve=[{}], best=recalls(arm.train.seed))
    )
    tune("--arm", "no-ssl", "--trials", "1", "--seeds", "3")
    (row,) = rows(shop, "no-ssl")
    assert (row["value"], row["recall"], row["epochs"]) == (2, 2, 3)
