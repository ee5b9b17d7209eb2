"""Data with planted tastes: the three clicks of a new user tell his group, and only a history can use them.

Twenty groups of items have no features in common. Each user of the training takes items of one group. New users, who
were not there in training, come with three clicks each.
"""

from pathlib import Path

import numpy as np
import polars as pl

from .jobs import compute_popularity, export_embeddings, prepare, train

GROUPS, ITEMS, USERS, TAKEN, CLICKS = 20, 25, 25, 8, 3


def write_tables(folder: Path) -> None:
    rng = np.random.default_rng(5)
    items = [
        {"item_id": f"i{group}_{n}", "shelf": f"s{rng.integers(6)}"} for group in range(GROUPS) for n in range(ITEMS)
    ]
    taken = [
        (f"u{group}_{user}", f"i{group}_{n}")
        for group in range(GROUPS)
        for user in range(USERS)
        for n in rng.choice(ITEMS, TAKEN, replace=False)
    ]
    new = [
        {"query_id": f"new{group}", "clicks": [f"i{group}_{n}" for n in rng.choice(ITEMS, CLICKS, replace=False)]}
        for group in range(GROUPS)
    ]
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    pl.DataFrame(taken, schema=["query_id", "item_id"], orient="row").write_parquet(folder / "interactions.parquet")
    nothing = pl.lit([], pl.List(pl.String))
    pl.DataFrame(new).with_columns(nothing=nothing).write_parquet(folder / "new.parquet")


def shares_of_own_group(folder: Path, *columns: str) -> list[float]:
    """Train with a history and without SSL; return for each column of clicks which share of the ten items nearest to a
    new user is of his group, his clicks left out."""
    run, clicks = folder / "run", pl.read_parquet(folder / "new.parquet")
    prepare(folder / "interactions.parquet", folder / "items.parquet", run=run, queries_are_items=False)
    compute_popularity(run)
    sizes = {"batch_size": 128, "further_negatives": 128, "epochs": 15, "patience": 15, "temperature": 0.1}
    train(run, ssl=False, history=10, **sizes)
    export_embeddings(run, ssl=False)
    items = pl.read_parquet(run / "no-ssl" / "item_embeddings.parquet")
    shares = []
    for column in columns:
        export_embeddings(run, ssl=False, queries=folder / "new.parquet", history_column=column)
        asked = pl.read_parquet(run / "no-ssl" / "new_query_embeddings.parquet")
        scores, hits = asked["embedding"].to_numpy() @ items["embedding"].to_numpy().T, []
        for query, clicked, row in zip(clicks["query_id"], clicks["clicks"], scores, strict=True):
            ranked = [items["item_id"][int(at)] for at in row.argsort()[::-1]]
            nearest = [item for item in ranked if item not in clicked][:10]
            hits += [item.startswith(f"i{query.removeprefix('new')}_") for item in nearest]
        shares.append(float(np.mean(hits)))
    return shares


def test_three_clicks_tell_the_group_of_a_new_user_and_without_them_nothing_does(tmp_path: Path) -> None:
    write_tables(tmp_path)
    with_clicks, without = shares_of_own_group(tmp_path, "clicks", "nothing")
    assert with_clicks > 0.8
    assert without < 0.2
