"""Write the settings for MovieLens 1M with item features. You bring the data: its licence forbids redistribution.

    python benchmarks/quality/ml1m.py FOLDER runs/ml-1m.toml
    ssl-recall prepare --config runs/ml-1m.toml --run runs/ml-1m-1.0
    ssl-recall prepare --config runs/ml-1m.toml --run runs/ml-1m-0.1 --train-fraction 0.1

FOLDER has interactions.parquet (user_id, item_id, rating, timestamp), items.parquet (item_id and the FEATURES) and
users.parquet (user_id, gender, age, occupation, zip_code). An interaction is a rating of at least 4. An interaction
without a time goes to the quarantine.
"""

import argparse
from pathlib import Path

FEATURES = {
    "release_year": "categorical",
    "decade": "categorical",
    "content_rating": "categorical",
    "country": "categorical",
    "genres": "multi-valued",
    "directors": "multi-valued",
    "writers": "multi-valued",
    "actors": "multi-valued",
    "imdb_genres": "multi-valued",
    "filming_country": "multi-valued",
    "tags": "multi-valued",
    "title": "exclude",
    "plot": "exclude",
}

SETTINGS = """\
[prepare]
interactions = "{folder}/interactions.parquet"
items = "{folder}/items.parquet"
queries = "{folder}/users.parquet"
query_id = "user_id"
item_id = "item_id"
timestamp = "timestamp"
null_timestamp = "quarantine"
weight = "rating"
min_weight = 4
queries_are_items = false  # both are small numbers

[prepare.item_features]
{features}
"""


def main() -> None:
    """Write the settings file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    features = "\n".join(f'{name} = "{kind}"' for name, kind in FEATURES.items())
    options.output.write_text(SETTINGS.format(folder=options.folder.as_posix(), features=features))


if __name__ == "__main__":
    main()
