"""A small shop, prepared: what tests of whole commands begin with."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from stages import cli

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a background job, whose children would not be stopped
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHOP = """
run = "run"

[prepare]
interactions = "log.parquet"
items = "items.parquet"
timestamp = "timestamp"
validation_share = 0.2
test_share = 0.2

[build_views]
variants = 2

[train]
epochs = 2
batch_size = 32
further_negatives = 16
ssl_batch_size = 16
embedding_width = 8
ssl_warmup_steps = 3
hidden = [8]
width = 8
precision = "float32"
"""


@pytest.fixture(scope="session")
def prepared_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty items in five colours; a user takes items of a colour, one a day; ready for training."""
    folder, rng = tmp_path_factory.mktemp("shop"), np.random.default_rng(2)
    items = {
        "item_id": range(60),
        "colour": [f"c{n % 5}" for n in range(60)],
        "tags": [[f"t{n % 3}", f"u{n % 7}"] for n in range(60)],
    }
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    log = [
        (f"u{user}", int(n) * 5 + user % 5, day)
        for user in range(40)
        for day, n in enumerate(rng.choice(12, 6, replace=False, p=np.arange(1, 13) / 78))
    ]
    pl.DataFrame(log, schema=["query_id", "item_id", "timestamp"], orient="row").write_parquet(folder / "log.parquet")
    (folder / "ssl-recall.toml").write_text(SHOP)
    here = Path.cwd()
    os.chdir(folder)
    try:
        for command in ("prepare", "compute-popularity", "compute-mi"):
            assert CliRunner().invoke(cli.app, [command]).exit_code == 0
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def shop(prepared_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working folder: settings in ssl-recall.toml, the run folder run/."""
    folder = tmp_path / "shop"
    shutil.copytree(prepared_shop, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def dated_shop(shop: Path) -> Path:
    """The shop with a clock, prepared again: an interaction a week from each user, Unix times in seconds."""
    log = pl.read_parquet(shop / "log.parquet").with_columns(user=pl.int_range(pl.len()) // 6)
    day = 7 * pl.col("timestamp") + pl.col("user") % 7
    log.select("query_id", "item_id", timestamp=1_600_000_000 + 86_400 * day).write_parquet(shop / "log.parquet")
    for command in ("prepare", "compute-popularity", "compute-mi"):
        assert CliRunner().invoke(cli.app, [command]).exit_code == 0
    return shop
