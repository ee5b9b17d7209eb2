"""The lists of the test pairs: what each one knows, worked by hand."""

from pathlib import Path

import polars as pl
import pytest

from ssl_recall.evaluation.comparison import Truth
from stages.learning.held_out import Targets, truth_of
from stages.run_folder import reader
from stages.run_folder.job import Job
from stages.terminal.errors import InputError, SettingsError

READS = ("train.parquet", "validation.parquet", "test.parquet", "popularity.parquet")
SIDES = {  # query, item, time; query 1 has no test pair, query 2 nothing before its test pair
    "train": [(0, 5, 1), (0, 2, 2), (1, 3, 1)],
    "validation": [(0, 7, 3), (1, 2, 3)],
    "test": [(0, 1, 6), (0, 6, 5), (0, 4, 6), (0, 0, 8), (2, 3, 5)],
}


def publish(run: Path, times: bool = True, **sides: list[tuple[int, int, int]]) -> None:
    with Job(run, "prepare", {}, writes=READS[:3], force=True) as job:
        for name, rows in (SIDES | sides).items():
            schema = dict.fromkeys(("query_index", "item_index"), pl.Int32) | {"timestamp": pl.Int64}
            frame = pl.DataFrame(rows, schema=schema, orient="row").sort("query_index", "timestamp", "item_index")
            frame = frame.with_columns(query_id="query_index", item_id="item_index")
            job.write(f"{name}.parquet", frame if times else frame.drop("timestamp"))
    with Job(run, "compute-popularity", {}, reads=READS[:1], writes=READS[3:]) as job:
        counts = pl.DataFrame({"item_id": range(8), "count": [0, 0, 1, 1, 0, 1, 0, 0]})
        job.write(READS[3], counts.with_columns(p=pl.lit(0.1), log_p=pl.lit(0.1)))


def truth(run: Path, targets: Targets) -> Truth:
    with reader.reading(run, READS) as job:
        return truth_of(job, targets)


def known(found: Truth) -> list[list[int]]:
    offsets, items = found.known
    return [part.tolist() for part in items.tensor_split(offsets[1:-1])]


def test_a_list_of_next_knows_what_its_query_took_strictly_before_its_pair(tmp_path: Path) -> None:
    publish(tmp_path)
    found = truth(tmp_path, Targets.NEXT)
    assert found.queries.tolist() == [0, 0, 0, 0, 2]
    assert found.pair_rows.tolist() == [0, 1, 2, 3, 4]
    assert found.pair_items.tolist() == [6, 1, 4, 0, 3]
    assert known(found) == [[5, 2, 7], [5, 2, 7, 6], [5, 2, 7, 6], [5, 2, 7, 6, 1, 4], []]  # 1 and 4 at one instant
    assert found.owners is not None
    assert found.owners.tolist() == [0, 0, 0, 0, 1]
    assert found.trained.tolist() == [True] * 4 + [False]


def test_a_list_of_all_knows_what_its_query_took_before_the_test(tmp_path: Path) -> None:
    publish(tmp_path)
    found = truth(tmp_path, Targets.ALL)
    assert (found.queries.tolist(), found.pair_rows.tolist()) == ([0, 2], [0, 0, 0, 0, 1])
    assert known(found) == [[5, 2, 7], []]
    assert found.owners is None


def test_next_without_times_or_without_pairs_is_refused(tmp_path: Path) -> None:
    publish(tmp_path, times=False)
    with pytest.raises(SettingsError, match="NO_TIME: --targets next needs times: prepare with --timestamp"):
        truth(tmp_path, Targets.NEXT)
    publish(tmp_path, test=[])
    for targets in Targets:
        with pytest.raises(InputError, match=r"TOO_FEW: test\.parquet: empty"):
            truth(tmp_path, targets)
