"""Data with a planted structure that only self-supervision on the catalogue can find.

There are sixty groups of items. Popular items carry the name of their group, rare items only words of the group, and
cold items (the shelf) both. A user takes items of one group. So the log alone cannot teach the meaning of the words;
the catalogue can. After a shuffle of the features among the items, it cannot either. Both models hide ids in the main
task, and both train until they stop learning.
"""

from pathlib import Path

import numpy as np
import polars as pl

from stages.learning.view_settings import Transform

from .jobs import build_views, compute_mi, compute_popularity, evaluate, export_embeddings, prepare, train

GROUPS, POPULAR, RARE, SHELF, USERS = 60, 3, 5, 12, 10


def write_tables(folder: Path, *, shuffled: bool) -> None:
    rng = np.random.default_rng(7)
    items, taken = [], []
    for group in range(GROUPS):
        words = [f"w{group}_{n}" for n in range(4)]
        for kind, count in (("popular", POPULAR), ("rare", RARE), ("shelf", SHELF)):
            items += [
                {
                    "item_id": f"{kind}{group}_{n}",
                    "group": None if kind == "rare" else f"g{group}",
                    "words": [] if kind == "popular" else rng.choice(words, 3, replace=False).tolist(),
                }
                for n in range(count)
            ]
        for user in range(USERS):
            taken += [(f"u{group}_{user}", f"popular{group}_{n}") for n in range(POPULAR)]
        # one interaction makes a rare item warm; the others are to be recalled
        taken += [(f"u{group}_{rng.integers(USERS)}", f"rare{group}_{n}") for n in range(RARE) for _ in range(3)]
    frame = pl.DataFrame(items)
    if shuffled:
        frame = frame.with_columns(words=frame["words"].shuffle(seed=3), group=frame["group"].shuffle(seed=4))
    folder.mkdir()
    frame.write_parquet(folder / "items.parquet")
    log = pl.DataFrame(taken, schema=["query_id", "item_id"], orient="row").unique(maintain_order=True)
    log.write_parquet(folder / "interactions.parquet")


def tail_change(folder: Path, *, shuffled: bool) -> dict[str, float]:
    """Run all stages; return the change of recall@20 on the tail by self-supervision, with its 95 % interval."""
    write_tables(folder, shuffled=shuffled)
    run = folder / "run"
    prepare(folder / "interactions.parquet", folder / "items.parquet", run=run, validation_share=0.2, test_share=0.3)
    compute_popularity(run)
    compute_mi(run)
    build_views(run, transform=Transform.COMPLEMENTARY, value_dropout=0.0)
    sizes = {"epochs": 25, "patience": 25, "batch_size": 256, "further_negatives": 64, "ssl_batch_size": 256}
    for ssl in (True, False):
        train(run, ssl=ssl, ssl_weight=0.3, **sizes)
        export_embeddings(run, ssl=ssl)
    evaluate(run, k=[20], bootstrap=200)
    metrics = pl.read_parquet(run / "metrics.parquet").filter(model="ssl - no-ssl", slice="tail", metric="recall")
    return metrics.select("value", "low", "high").row(0, named=True)


def test_self_supervision_recalls_the_tail_that_the_log_does_not_explain(tmp_path: Path) -> None:
    change = tail_change(tmp_path / "planted", shuffled=False)
    assert change["value"] > 0.1
    assert change["low"] > 0


def test_with_shuffled_features_there_is_nothing_to_find(tmp_path: Path) -> None:
    change = tail_change(tmp_path / "shuffled", shuffled=True)
    assert change["value"] < 0.05
    assert change["low"] <= 0
