"""Time compute-popularity on 100 M interactions of 4.5 M items, in turns with a polars group_by, as whole processes.

python benchmarks/long_log.py --interactions 100000000
"""

import argparse
import json
import sys
from pathlib import Path

import polars as pl
from bench import alternate, reference
from growth import write_log

from stages.run_folder.job import Job

ITEMS = 4_500_000


def prepared(folder: Path, interactions: int) -> None:
    """Write the two tables that the stage reads, under the manifest of prepare."""
    plain = folder / "plain.parquet"
    write_log(plain, ITEMS, interactions, spread=True)
    log = pl.scan_parquet(plain).with_columns(query_id="query_index", item_id="item_index")
    items = pl.LazyFrame({"item_id": pl.int_range(ITEMS, dtype=pl.Int32, eager=True)})
    with Job(folder / "run", "prepare", {}, writes=("items.parquet", "train.parquet")) as job:
        job.write("items.parquet", items)
        job.write("train.parquet", log.select("query_id", "item_id", "query_index", "item_index"))
    plain.unlink()


def main() -> None:
    """Print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=100_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    folder = Path(".bench") / f"log_{arguments.interactions}"
    if not (folder / "run" / "manifest.json").exists():
        prepared(folder, arguments.interactions)
    tool = str(Path(sys.executable).with_name("ssl-recall"))
    own = [tool, "compute-popularity", "--run", str(folder / "run"), "--force"]
    (seconds, peak), (bare, bare_peak) = alternate([own, reference("polars_group_by", folder)], arguments.repeat)
    sizes = {"interactions": arguments.interactions, "items": ITEMS}
    found = {"seconds": seconds, "peak_gib": peak, "polars_seconds": bare, "polars_gib": bare_peak}
    print(json.dumps(sizes | found | {"ratio": seconds / bare}))


if __name__ == "__main__":
    main()
