"""ablate: it trains every arm and seed once, and its table agrees with the rank files."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from ssl_recall.data import packed_views
from ssl_recall.data.packed_views import PackedViews, pack_views
from stages import cli
from stages.experiments import arms
from stages.learning import view_settings
from stages.learning.settings import TrainSettings
from stages.learning.view_settings import ViewSettings
from stages.terminal.errors import SettingsError
from stages.terminal.metrics_table import SLICES

TOOL = Path(sys.executable).with_name("ssl-recall")
# appended to [train]: the weights stay close to the first ones
STILL = "\nlearning_rate = 1e-6\nembedding_learning_rate = 1e-6\n"


def ablate(*flags: str, command: str = "ablate") -> str:
    """Run the command in this process, and return its stderr."""
    result = CliRunner().invoke(cli.app, [command, *flags])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stderr


def few(*flags: str, arm: str = "random-mask") -> str:
    return ablate("--arm", arm, "--seeds", "2", "--k", "3", *flags)


def append(folder: Path, text: str) -> None:
    with (folder / "ssl-recall.toml").open("a") as file:
        file.write(text)


def table(folder: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    frame = pl.read_parquet(folder / "run" / "ablation.parquet")
    return {(row["arm"], row["slice"], row["k"]): row for row in frame.iter_rows(named=True)}


def files(folder: Path, arm: str = "") -> dict[str, tuple[int, int]]:
    """Return every rank file of an arm, with its inode and time, which change when it is written again."""
    found = (folder / "run" / "ablation").glob(f"{arm}*.parquet")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def ranks(folder: Path, arm: str, seed: int) -> pl.DataFrame:
    (path,) = (folder / "run" / "ablation").glob(f"{arm}-{seed}-*.parquet")
    return pl.read_parquet(path)


def about(folder: Path, arm: str, seed: int = 1) -> dict[str, Any]:
    (path,) = (folder / "run" / "ablation").glob(f"{arm}-{seed}-*.parquet")
    return dict(json.loads(pl.read_parquet_metadata(path)["ssl-recall"]))


def test_the_table_is_what_the_rank_files_say(shop: Path) -> None:
    few("--k", "8")
    found, counts = table(shop), pl.read_parquet(shop / "run" / "popularity.parquet")["count"].to_numpy()
    head = np.argsort(-counts, kind="stable")[:6]
    for part, members in (
        ("all", counts >= 0),
        ("head", np.isin(np.arange(60), head)),
        ("tail", ~np.isin(np.arange(60), head)),
        ("cold", counts == 0),
        ("warm-tail", ~np.isin(np.arange(60), head) & (counts > 0)),
    ):
        for k in (3, 8):
            recall: dict[str, list[float]] = {}
            for arm in ("no-ssl", "random-mask"):
                for seed in (1, 2):
                    frame = ranks(shop, arm, seed)
                    own = frame.filter(members[frame["item_index"].to_numpy()])
                    recall.setdefault(arm, []).append((own["rank"].fill_null(10**6) <= k).mean())  # type: ignore[arg-type]
                row = found[arm, part, k]
                assert row["n"] == own.height > 0
                assert row["value"] == pytest.approx(np.mean(recall[arm]))
                assert row["std"] == pytest.approx(np.std(recall[arm], ddof=1))
                assert row["seeds"] == 2
            row = found["random-mask", part, k]
            assert row["difference"] == pytest.approx(np.mean(recall["random-mask"]) - np.mean(recall["no-ssl"]))
            assert row["low"] <= row["difference"] <= row["high"]
            assert found["no-ssl", part, k]["difference"] is None
            assert found["most-popular", part, k]["std"] is None
    assert {arm for arm, *_ in found} == {"most-popular", "no-ssl", "random-mask"}


def test_an_arm_recalls_what_the_stages_one_by_one_recall(shop: Path) -> None:
    for command in (["build-views"], ["train"], ["train", "--no-ssl"], ["export-embeddings"]):
        ablate(*command[1:], command=command[0])
    ablate("--no-ssl", command="export-embeddings")
    ablate("--k", "3", command="evaluate")
    few("--seeds", "1", arm="ssl")
    names = {"most-popular", "no-ssl", "ssl"}
    metrics = pl.read_parquet(shop / "run" / "metrics.parquet").filter(metric="recall")
    rows = [row for row in metrics.iter_rows(named=True) if row["model"] in names and row["slice"] in SLICES]
    assert len(rows) == 15
    for row in rows:
        assert table(shop)[row["model"], row["slice"], 3]["value"] == pytest.approx(row["value"]), row


def test_nothing_is_trained_twice_and_what_has_changed_alone_is_trained_again(shop: Path) -> None:
    few()
    first, before = files(shop), (shop / "run" / "ablation.parquet").read_bytes()
    assert len(first) == 4
    assert "up to date" in few()
    assert "4 of 4 arms and seeds are already trained" in few("--k", "4")
    few("--k", "90")
    assert files(shop) == first
    append(shop, "\n[ablate.arms.random-mask]\nmask_rate = 0.9\n")
    said = few()
    assert "runs again: arm random-mask was" in said
    assert "2 of 4 arms and seeds are already trained" in said
    assert files(shop, "no-ssl").items() < first.items()
    assert not files(shop, "random-mask").keys() & first.keys()
    assert len(files(shop)) == 4  # the outdated files are deleted
    assert (shop / "run" / "ablation.parquet").read_bytes() != before
    few("--seeds", "1")
    assert len(files(shop)) == 4  # the files of the second seed stay, for a later call


def test_a_rank_file_that_is_not_whole_is_made_again(shop: Path) -> None:
    few()
    before = (shop / "run" / "ablation.parquet").read_bytes()
    for name in files(shop, "random-mask"):
        path = shop / "run" / "ablation" / name
        data = bytearray(path.read_bytes())
        pl.read_parquet(path).with_columns(rank=pl.lit(1, pl.Int32)).write_parquet(path, metadata={"ssl-recall": "{}"})
        assert path.read_bytes() != data
    assert "2 of 4 arms" in few("--k", "4")
    assert "4 of 4 arms" in few()
    assert (shop / "run" / "ablation.parquet").read_bytes() == before


def test_rank_files_that_are_damaged_are_made_again(shop: Path) -> None:
    few()
    before = (shop / "run" / "ablation.parquet").read_bytes()
    paths = [shop / "run" / "ablation" / name for name in sorted(files(shop))]
    whole = paths[0].read_bytes()
    for path, damaged in zip(paths, (whole[:-100], b"", b"\xff\x00garbage\n" * 99), strict=False):
        path.write_bytes(damaged)
    assert "1 of 4 arms" in few("--k", "4")
    assert "4 of 4 arms" in few()
    assert (shop / "run" / "ablation.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("stop", "jobs", "code"), [(signal.SIGKILL, "1", -9), (signal.SIGINT, "2", 130), (signal.SIGTERM, "2", 143)]
)
def test_a_stopped_ablation_goes_on_and_gives_the_same_table(
    shop: Path, tmp_path: Path, stop: signal.Signals, jobs: str, code: int
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(shop, whole)
    command = [TOOL, "ablate", "--seeds", "40", "--k", "3", "--jobs", jobs, "--arm", "random-mask"]
    process = subprocess.Popen(command, cwd=shop, stderr=subprocess.PIPE, text=True)
    while not files(shop):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(stop)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    assert stop == signal.SIGKILL or f"are kept; to go on run: {shlex.join(['ssl-recall', *command[1:]])}" in said
    assert "nothing of this stage" not in said
    there = files(shop)
    assert 0 < len(there) < 80
    few()
    kept = {name: there[name] for name in there if name.split("-")[-2] in {"1", "2"}}
    assert kept.items() <= files(shop).items()
    os.chdir(whole)
    few()
    for name in ("ablation.parquet", "ablation.md"):
        assert (shop / "run" / name).read_bytes() == (whole / "run" / name).read_bytes()


def test_workers_give_the_table_of_one_process(shop: Path) -> None:
    few()
    alone = (shop / "run" / "ablation.parquet").read_bytes()
    few("--jobs", "2", "--force")
    assert (shop / "run" / "ablation.parquet").read_bytes() == alone


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_a_worker_refuses_is_one_line_and_nothing_is_published(shop: Path, jobs: str) -> None:
    append(shop, "\n[ablate.arms.wild]\ndevice = 'mainframe'\n")
    with pytest.raises(SettingsError, match="DEVICE: --device mainframe: "):
        few("--jobs", jobs, arm="wild")
    assert not (shop / "run" / "ablation.parquet").exists()


def test_an_arm_with_the_settings_of_no_ssl_differs_by_exactly_nothing(shop: Path) -> None:
    append(shop, "\n[ablate.arms.same]\nssl = false\n[ablate.arms.other]\nssl = false\nbatch_size = 16\n")
    few("--arm", "other", arm="same")
    for (arm, part, _), row in table(shop).items():
        if arm == "same":
            assert (row["difference"], row["low"], row["high"]) == (0, 0, 0), part
    assert any(row["difference"] for (arm, *_), row in table(shop).items() if arm == "other")


def test_the_arms_of_a_seed_begin_with_the_same_weights(shop: Path) -> None:
    append(shop, STILL)
    few("--arm", "correlated")
    first = {seed: ranks(shop, "no-ssl", seed) for seed in (1, 2)}
    for arm in ("random-mask", "correlated"):
        assert ranks(shop, arm, 1).equals(first[1])
        assert ranks(shop, arm, 2).equals(first[2])
    assert not first[1].equals(first[2])


def test_an_arm_draws_its_own_views_with_the_seed_of_its_training(shop: Path) -> None:
    few("--arm", "correlated-no-dropout", "--arm", "spread-out")
    for arm, drawn in (
        ("spread-out", {"transform": "dropout", "value_dropout": 0.0}),
        ("correlated-no-dropout", {"transform": "correlated", "value_dropout": 0.0}),
        ("random-mask", {"transform": "random-mask", "value_dropout": 0.3}),
    ):
        for seed in (1, 2):
            told = about(shop, arm, seed)
            assert (drawn | {"seed": seed, "variants": 2}).items() <= told["views"].items()
            assert told["train"]["seed"] == seed
    assert about(shop, "no-ssl")["views"] is None
    assert not any(name.startswith("ssl_") for name in about(shop, "no-ssl")["train"])


def test_an_arm_that_names_no_number_of_views_has_as_many_as_build_views_draws(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = shop / "ssl-recall.toml"
    settings.write_text(settings.read_text().replace("variants = 2\n", ""))
    asked: list[int] = []
    packed = pack_views

    def counted(*of: Any) -> PackedViews:
        asked.append(of[-1])
        return packed(*of)

    monkeypatch.setattr(packed_views, "pack_views", counted)
    for limit, drawn in ((60, 32), (59, 8)):
        monkeypatch.setattr(view_settings, "MANY_ITEMS", limit)
        few("--force")
        assert asked[-2:] == [drawn] * 2  # random-mask with two seeds


@pytest.mark.parametrize(
    ("flags", "text", "message"),
    [
        (["--arm", "random-msk"], "", "--arm random-msk: is no arm; did you mean 'random-mask'?; there are no-ssl"),
        ([], "[ablate.arms.random-mask]\nmask_rat = 1", "[ablate.arms.random-mask] has no setting 'mask_rat'; did you"),
        ([], "[ablate.arms.mine]\nseed = 3", "[ablate.arms.mine] has no setting 'seed'"),
        ([], "[ablate.arms.mine]\nmask_rate = 3", "[ablate.arms.mine]: Invalid value for '--mask-rate': "),
        ([], "[ablate.arms]\nmine = 3", "[ablate.arms] mine is no arm"),
        ([], "[ablate.arms.'../mine']\nssl = true", "[ablate.arms] ../mine is no arm"),
        ([], "[ablate]\narms = 3", "[ablate.arms] arms is no arm"),
        ([], "[ablate]\nseed = 3", "[ablate] has no setting 'seed'; did you mean 'seeds'?"),
    ],
)
def test_an_unknown_arm_or_setting_is_refused(shop: Path, flags: list[str], text: str, message: str) -> None:
    append(shop, f"\n{text}\n")
    with pytest.raises(SettingsError) as caught:
        ablate(*flags)
    assert message in str(caught.value)
    assert not (shop / "run" / "ablation").exists()


def test_a_wrong_setting_of_train_is_no_arm_s_fault(shop: Path) -> None:
    append(shop, "\nssl_weight = -1\n")
    result = CliRunner().invoke(cli.app, ["ablate"])
    assert result.exit_code == 2
    assert "--ssl-weight" in result.stderr
    assert "arms" not in result.stderr


def test_the_markdown_and_the_terminal_say_the_same(shop: Path) -> None:
    result = CliRunner().invoke(cli.app, ["ablate", "--arm", "correlated", "--seeds", "1", "--k", "3"])
    markdown = (shop / "run" / "ablation.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == ["most-popular", "no-ssl", "correlated", "test pairs"]
    for cell in rows[3][1:]:
        assert cell in result.stdout
    assert "Rows: 60 items, 40 queries, " in markdown
    assert "Seed: 1. Tuned: none. ssl-recall " in markdown
    assert "[95 % interval over queries; of one seed]" in markdown


def test_every_arm_of_the_table_is_made_of_settings_that_the_stages_have() -> None:
    names = ViewSettings.__dataclass_fields__.keys() | TrainSettings.__dataclass_fields__.keys()
    assert all(changed.keys() <= names for changed in arms.ARMS.values())
