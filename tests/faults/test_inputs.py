"""Bad tables: each is refused with its rule and its place, or used; never partly used."""

import datetime
import hashlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.user_tables.limits import COLUMN_BYTES, LINE_BYTES

from .commands import call

NAN, INF = float("nan"), float("inf")
ITEMS = pl.DataFrame({"item_id": [f"i{n:02}" for n in range(40)], "colour": [f"c{n % 5}" for n in range(40)]})
LOG = pl.DataFrame(
    [(f"u{u}", f"i{(u * 7 + k * 3) % 40:02}", 1_600_000_000 + k * 86_400 + u) for u in range(30) for k in range(6)],
    schema=["query_id", "item_id", "t"],
    orient="row",
)
NUMBERED = pl.DataFrame({"item_id": range(40), "colour": [f"c{n % 5}" for n in range(40)]})
LOG_OF_NUMBERED = LOG.with_columns(item_id=pl.col("item_id").str.slice(1).cast(pl.Int64))
TRAIN = "--epochs 1 --batch-size 32 --further-negatives 8 --ssl-batch-size 8 --ssl-warmup-steps 1 --width 8 --hidden 8"
SCRIPT = (
    "import re, sys\n"
    "from pathlib import Path\n"
    "from stages.cli import main\n"
    "try: main()\n"
    "finally:\n"
    "    peak = re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]\n"
    "    print('PEAK', peak, file=sys.stderr)\n"
)
GIB = 2**30


Prepare = Callable[..., tuple[int, str]]


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Write tables and prepare run/; return exit code and text. A refusal leaves no file and prints no traceback."""
    monkeypatch.chdir(tmp_path)

    def run(log: pl.DataFrame = LOG, items: pl.DataFrame = ITEMS, *flags: str) -> tuple[int, str]:
        log.write_parquet("log.parquet")
        items.write_parquet("items.parquet")
        before = Path("run").exists()
        code, said = call(
            "prepare", "--interactions", "log.parquet", "--items", "items.parquet", "--run", "run", *flags
        )
        assert "Traceback" not in said
        assert Path("run").exists() == (before or code == 0)
        return code, said

    return run


def refused(ended: tuple[int, str], *parts: str) -> None:
    """Assert exit 3, a rule's name, and each of `parts` in the command's text."""
    code, said = ended
    assert code == 3, said
    assert "\nssl-recall: " in f"\n{said}"
    for part in parts:
        assert part in said


def artifact(name: str) -> pl.DataFrame:
    return pl.read_parquet(f"run/{name}.parquet")


def train_and_export(*flags: str) -> None:
    """Train one short epoch on the prepared run folder, and export."""
    for command in ("compute-popularity", "compute-mi", "build-views"):
        assert call(command, "--run", "run")[0] == 0
    for command in (["train", *TRAIN.split(), *flags], ["export-embeddings"]):
        code, said = call(*command, "--run", "run")
        assert code == 0, said
    assert np.isfinite(artifact("training")["loss"].to_numpy()).all()


def test_f27_ids_given_twice_are_counted_with_five_examples(prepare: Prepare) -> None:
    twice = pl.concat([ITEMS, ITEMS.head(7)])
    refused(prepare(LOG, twice), "DUP_ITEM_ID: ", "7 of the item_id ", "['i00', 'i01', 'i02', 'i03', 'i04']")


@pytest.mark.parametrize("at", [0, 20, 39])
@pytest.mark.parametrize("bad", [None, "", " \t", "\u200b", "\0"])
def test_f28_an_id_that_is_null_or_shows_nothing_is_refused_with_its_row(
    prepare: Prepare, at: int, bad: str | None
) -> None:
    items = ITEMS.with_columns(item_id=pl.Series([bad if n == at else i for n, i in enumerate(ITEMS["item_id"])]))
    log = LOG.with_columns(query_id=pl.Series([bad if n == at else q for n, q in enumerate(LOG["query_id"])]))
    rule = "NULL_ID" if bad is None else "EMPTY_ID"
    refused(prepare(LOG, items), f"{rule}: --items", f"in 1 rows, such as [{at}] ")
    refused(prepare(log, ITEMS), f"{rule}: --interactions", f"in 1 rows, such as [{at}] ")


def test_f29_unknown_items_are_set_aside_up_to_a_limit_and_all_of_them_hint_at_the_ids(prepare: Prepare) -> None:
    def foreign(rows: int) -> pl.DataFrame:
        return LOG.with_columns(item_id=pl.Series([f"z{n}" if n < rows else i for n, i in enumerate(LOG["item_id"])]))

    code, said = prepare(foreign(1))
    assert code == 0
    assert "1 interactions set aside (0.6%): item not in the catalogue; see run/quarantine.parquet" in said
    assert artifact("quarantine")["item_id"].to_list() == ["z0"]
    refused(prepare(foreign(108)), "UNKNOWN_ITEMS: ", "60% of 180 rows", "--max-unknown-share (now 0.5)")
    for most in ("0.5", "1"):
        found = prepare(foreign(180), ITEMS, "--max-unknown-share", most)
        refused(found, "UNKNOWN_ITEMS: ", "are these the same ids? interactions have ['z0', 'z1', 'z2']")


@pytest.mark.parametrize(
    ("of_log", "of_items", "types"),
    [
        (pl.String, pl.Int64, ("String", "Int64")),
        (pl.Int64, pl.String, ("Int64", "String")),
        (pl.Float64, pl.Int64, ("Float64", "ids are text or integers")),
        (pl.UInt64, pl.Int64, ("UInt64", "Int64")),
    ],
)
def test_f30_ids_of_two_types_are_refused_with_both_named(
    prepare: Prepare, of_log: Any, of_items: Any, types: tuple[str, ...]
) -> None:
    log, items = (
        t.with_columns(pl.col("item_id").cast(d)) for t, d in ((LOG_OF_NUMBERED, of_log), (NUMBERED, of_items))
    )
    refused(prepare(log, items), "ID_TYPES: ", *types)


def test_f30_no_id_is_cast_into_another(prepare: Prepare) -> None:
    padded = LOG.with_columns(item_id=pl.col("item_id").str.replace("i0", "i00"))
    code, said = prepare(padded, ITEMS, "--max-unknown-share", "0.9")
    assert code == 0  # "001" is not "01"
    assert "item not in the catalogue" in said
    large = pl.Series([2**53 + n for n in range(40)])
    assert (
        prepare(LOG_OF_NUMBERED.with_columns(item_id=pl.col("item_id") + 2**53), NUMBERED.with_columns(item_id=large))[
            0
        ]
        == 0
    )
    assert artifact("items")["item_id"].to_list() == large.to_list()
    beyond = NUMBERED.with_columns(item_id=pl.col("item_id").cast(pl.Int128) + 2**70)
    refused(prepare(LOG_OF_NUMBERED, beyond), "ID_TYPES: ", "Int128", "Int64")


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_f31_a_number_that_is_not_finite_is_refused_by_column_or_missing_where_declared(
    prepare: Prepare, bad: float
) -> None:
    numbers = [bad if n == 7 else float(n) for n in range(40)]
    items = ITEMS.with_columns(
        price=pl.Series(numbers),
        label=pl.Series(numbers),
        curve=pl.Series([[1.0, x] for x in numbers]),
        vector=pl.Series([[1.0, x] for x in numbers], dtype=pl.Array(pl.Float32, 2)),
        every=pl.lit(bad),
    )
    kinds = {"price": "numeric", "label": "categorical", "curve": "multi-valued", "vector": "dense", "every": "numeric"}
    declared = [f for name, kind in kinds.items() for f in ("--item-feature", f"{name}={kind}")]
    columns = [f"NAN_FEATURE: column '{name}' holds NaN or infinity in 1 rows (first [7])" for name in [*kinds][:-1]]
    refused(prepare(LOG, items, *declared), *columns, "column 'every' holds NaN or infinity in 40 rows")
    imputed = [f"{flag},nan=missing" if "=" in flag else flag for flag in declared]
    assert prepare(LOG, items, *imputed)[0] == 0
    assert [artifact("items")[f"{name}__code"][7] for name in ("price", "label", "vector")] == [0, 0, 0]
    assert "NaN" not in artifact("vocabulary").filter(vocabulary="label")["value"].to_list()


@pytest.mark.parametrize("bad", [INF, -INF, 1e39])
def test_f31_a_weight_that_is_not_finite_is_refused(prepare: Prepare, bad: float) -> None:
    log = LOG.with_columns(w=pl.Series([bad if n == 3 else 1.0 for n in range(180)]))
    for flags in (["--weight", "w"], ["--weight", "w", "--min-weight", "0.5"]):
        refused(prepare(log, ITEMS, *flags), "WEIGHT: ", "w is infinite, or beyond float32, in 1 of 180 rows")


NOW = int(time.time())
MOST = 2**63 - 1


@pytest.mark.parametrize(
    ("bad", "dtype", "message"),
    [
        (1_600_000_000_000, pl.Int64, "mixes seconds and milliseconds: from 1600000000 to 1600000000000"),
        (1_600_000_000 // 60, pl.Int64, "mixes seconds (1979 to 2128) and other numbers: from 26666666 to 16"),
        (0, pl.Int64, "mixes seconds (above 0) and other numbers: from 0 to 16"),
        (-5, pl.Int64, "mixes seconds (above 0) and other numbers: from -5 to 16"),
        (NOW + 10**7, pl.Int64, f"lies in the future: from 1600000000 to {NOW + 10**7}"),
        (None, pl.Int64, "is null in 1 of 180 rows (others from 1600000000 to 16"),
        (MOST, pl.Int64, f"holds an integer limit (32 or 64 bits), a mark for no time: from 1600000000 to {MOST}"),
        (
            2**64 - 1,
            pl.UInt64,
            f"holds an integer limit (32 or 64 bits), a mark for no time: from 1600000000 to {2**64 - 1}",
        ),
        (MOST, pl.Datetime("us"), f"is no date: from 1970-01-01 00:26:40 to {MOST} us after 1970"),
        (-MOST, pl.Datetime("ms"), f"is no date: from {-MOST} ms after 1970 to 1970-01-19"),
        (MOST, pl.Datetime("ns"), "lies in the future: from 1970-01-01 00:00:01.6"),
        (2**31 - 1, pl.Date, "is no date: from 1970-01-02 to 2147483647 days after 1970"),
    ],
)
def test_f32_times_that_cannot_be_ordered_are_refused_with_the_first_and_the_last(
    prepare: Prepare, bad: int | None, dtype: Any, message: str
) -> None:
    whole = pl.UInt64 if dtype == pl.UInt64 else pl.Int64
    values = [bad if n == 91 else t for n, t in enumerate(LOG["t"])]
    times = pl.Series([v and v // (10**9 if dtype == pl.Date and v < 2**31 - 1 else 1) for v in values], dtype=whole)
    times = times.cast(pl.Int32).cast(dtype) if dtype == pl.Date else times.cast(dtype)
    refused(prepare(LOG.with_columns(t=times), ITEMS, "--timestamp", "t"), "TIME: ", f"t {message}")


def test_f32_dates_and_plain_numbers_in_order_are_taken(prepare: Prepare) -> None:
    days = LOG.with_columns(t=datetime.date(1950, 1, 1) + pl.duration(days=pl.col("t") % 97))
    for log in (LOG, LOG.with_columns(t=pl.int_range(180)), days):
        assert prepare(log, ITEMS, "--timestamp", "t")[0] == 0


@pytest.mark.parametrize("lists", [[[], ["x"]], [None, ["x"]], [[None], ["x"]], [[], []], [None, None]])
def test_f33_an_item_with_nothing_in_its_list_stays_as_missing(prepare: Prepare, lists: list[Any]) -> None:
    items = ITEMS.with_columns(tags=pl.Series(lists * 20, dtype=pl.List(pl.String)))
    assert prepare(LOG, items)[0] == 0
    found = artifact("items")
    assert found["item_id"].to_list() == ITEMS["item_id"].to_list()
    assert found["tags__code"].list.len().to_list() == [0, 1 if ["x"] in lists else 0] * 20
    train_and_export()
    assert artifact("item_embeddings").height == artifact("views")["item_id"].n_unique() == 40


def bomb(kind: str) -> pa.Table:
    """Make a table of a few kilobytes on disk that decodes to gigabytes."""
    columns = {
        "a long value in a dictionary": lambda: pa.DictionaryArray.from_arrays(
            pa.array(np.zeros(300, np.int32)), pa.array(["x" * 10_000_000])
        ),
        "a long value in every page": lambda: pa.array(["x" * 10_000_000] * 40),
        "a long list": lambda: pa.array([["a"], ["b"] * 3_000_000, *[["c"]] * 38]),
        "a wide vector": lambda: pa.array([np.full(1_000_000, 0.5, np.float32)] * 40),
    }
    column = columns[kind]()
    return pa.table({"item_id": pa.array(range(len(column))), "big": column})


def limited(*arguments: str, space: int = 4 * GIB) -> tuple[int, str, int]:
    """Run a command in `space` bytes of addresses; return exit code, text and peak memory in MiB."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (space, space)),
    )
    said, _, peak = ended.stderr.rpartition("PEAK ")
    return ended.returncode, said, int(peak or 0) // 1024


@pytest.mark.parametrize(
    ("kind", "message", "packed"),
    [
        ("a long value in a dictionary", "a value of 10,000,000 bytes; the limit is --max-value-bytes 65,536", 4_000),
        ("a long value in every page", "values of 10,000,004 bytes; the limit is --max-value-bytes 65,536", 200_000),
        ("a long list", "a list of 3,000,000 values; the limit is --max-list-length 65,536", 4_000),
        ("a wide vector", "a list of 1,000,000 values; the limit is --max-list-length 65,536", 4_000_000),
    ],
)
def test_f34_a_parquet_that_decodes_to_gigabytes_is_refused_in_bounded_memory(
    prepare: Prepare, kind: str, message: str, packed: int
) -> None:
    assert prepare(LOG_OF_NUMBERED, NUMBERED)[0] == 0
    table = bomb(kind)
    whole = {"use_dictionary": False} if kind == "a long value in every page" else {}
    pq.write_table(table, "bomb.parquet", compression="zstd", **whole)
    assert Path("bomb.parquet").stat().st_size < packed
    flags = ["--interactions", "log.parquet", "--items", "bomb.parquet", "--run", "run2"]
    code, said, peak = limited("prepare", *flags, *(["--item-feature", "big=dense"] if "vector" in kind else []))
    assert code == 3, said
    assert said.startswith("ssl-recall: LIMIT: --items bomb.parquet: column 'big' holds ")
    assert message in said
    assert peak < 1_000
    assert not Path("run2").exists()


def test_f34_many_values_below_the_limit_are_counted_together(prepare: Prepare) -> None:
    rows = COLUMN_BYTES // 60_000 + 1
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * 60_000]))
    assert prepare(LOG_OF_NUMBERED, NUMBERED)[0] == 0
    pq.write_table(pa.table({"item_id": pa.array(range(rows)), "big": column}), "many.parquet", compression="zstd")
    code, said, peak = limited("prepare", "--interactions", "log.parquet", "--items", "many.parquet", "--run", "run2")
    assert code == 3, said
    assert "column 'big' holds 4,294,980,000 bytes of text; the limit is 4,294,967,296" in said
    assert peak < 1_000


def test_f34_long_ids_and_the_interactions_are_held_to_the_same_limits(prepare: Prepare) -> None:
    giant = "q" * 100_000
    refused(
        prepare(LOG, ITEMS.with_columns(item_id=pl.col("item_id") + giant)),
        "LIMIT: ",
        "item_id holds values of 100,0",
    )
    refused(prepare(LOG.with_columns(query_id=pl.col("query_id") + giant)), "LIMIT: ", "query_id holds ")
    assert prepare(LOG, ITEMS.with_columns(t=pl.lit(giant)), "--max-value-bytes", "100000")[0] == 0
    assert prepare(LOG, ITEMS.with_columns(t=pl.lit(giant)), "--item-feature", "t=exclude")[0] == 0


def test_f34_a_csv_file_that_is_one_line_or_compressed_is_refused(prepare: Prepare) -> None:
    assert prepare()[0] == 0
    flags = ["--interactions", "log.parquet", "--run", "run2"]
    Path("items.csv").write_bytes(b"item_id,colour\n" + b"x" * (LINE_BYTES + 1))
    refused(call("prepare", *flags, "--items", "items.csv"), "LIMIT: ", "a line of over 16,777,216 bytes")
    import gzip

    Path("items.csv").write_bytes(gzip.compress(b"item_id,colour\n" + b"0" * 10**6))
    refused(call("prepare", *flags, "--items", "items.csv"), "LIMIT: ", "items.csv: is compressed; unpack it")


def test_f35_five_million_values_of_a_feature_are_coded_in_bounded_memory(prepare: Prepare) -> None:
    assert prepare(LOG_OF_NUMBERED, NUMBERED)[0] == 0
    values = np.random.default_rng(0).permutation(5_000_000)
    pl.DataFrame({"item_id": range(5_000_000), "f": values}).with_columns(pl.col("f").cast(pl.String)).write_parquet(
        "wide.parquet"
    )
    flags = ["--interactions", "log.parquet", "--items", "wide.parquet", "--run", "run2"]
    code, said, peak = limited("prepare", *flags, space=16 * GIB)
    assert code == 0, said
    assert peak < 3_000
    assert pl.read_parquet("run2/features.parquet").filter(feature="f")["codes"].to_list() == [5_000_002]
    code, said, _ = limited("prepare", *flags, "--max-distinct", "4000000", "--force", space=16 * GIB)
    assert code == 3
    assert "column 'f' has 5,000,000 distinct values (0.6 GiB of vectors, and as much again" in said


def test_f35_two_hundred_features_are_measured_and_warned_of_in_forty_lines(prepare: Prepare) -> None:
    wide = {f"f{k}": pl.Series([f"v{(k % 3 + 1) * n % 7}" for n in range(40)]) for k in range(180)}
    items = ITEMS.with_columns(**wide, **{f"g{k}": pl.lit("one") for k in range(20)}, h=pl.lit("one"))
    assert prepare(LOG, items)[0] == 0
    code, said = call("compute-mi", "--run", "run")
    assert code == 0
    assert said.count("warning: ") == 2 * 21
    assert "and 1 more; mutual_information.parquet holds every pair" in said
    assert artifact("mutual_information").height == 202**2
    assert call("build-views", "--run", "run", "--variants", "1")[0] == 0


def test_f37_items_that_nobody_took_have_a_finite_log_p_and_all_sum_to_one(prepare: Prepare) -> None:
    items = pl.concat([ITEMS, pl.DataFrame({"item_id": [f"z{n}" for n in range(60)], "colour": ["c0"] * 60})])
    assert prepare(LOG, items)[0] == 0
    assert call("compute-popularity", "--run", "run")[0] == 0
    popularity = artifact("popularity")
    assert (popularity["count"] == 0).sum() >= 60
    log_p = popularity["log_p"].cast(pl.Float64)
    assert log_p.is_finite().all()
    assert abs(float(popularity["p"].sum()) - 1) <= 1e-9
    assert log_p.exp().sum() == pytest.approx(1, abs=1e-6)  # float32


@pytest.mark.parametrize("rows", [0, 1])
def test_f38_fewer_than_two_items_and_an_empty_log_are_refused(prepare: Prepare, rows: int) -> None:
    refused(prepare(LOG, ITEMS.head(rows)), "TOO_FEW: ", f"{rows} items; at least 2 are needed")
    refused(prepare(LOG.clear()), "TOO_FEW: ", "no rows")


@pytest.mark.parametrize(("users", "items"), [(1, 3), (2, 2)])
def test_f38_one_user_or_two_items_and_a_batch_beyond_both_train_to_a_finite_loss(
    prepare: Prepare, users: int, items: int
) -> None:
    pairs = [(f"u{u}", f"i{n:02}", n * users + u) for u in range(users) for n in range(items)]
    log = pl.DataFrame(pairs, schema=LOG.schema, orient="row")
    shares = ("--timestamp", "t", "--validation-share", str(1 / len(pairs)), "--test-share", "0")
    assert prepare(log, ITEMS.head(items), *shares)[0] == 0
    train_and_export("--batch-size", "100000", "--further-negatives", "100000")


@pytest.mark.parametrize("share", ["validation_share", "test_share"])
def test_f38_a_run_that_holds_nothing_out_is_refused_before_it_begins(
    prepare: Prepare, tmp_path: Path, share: str
) -> None:
    assert prepare()[0] == 0
    (tmp_path / "ssl-recall.toml").write_text(
        f"run = 'run2'\n[prepare]\ninteractions = 'log.parquet'\nitems = 'items.parquet'\n{share} = 0.0"
    )
    code, said = call("run")
    assert (code, "SHARES: [prepare] " + share in said) == (2, True)
    assert not (tmp_path / "run2").exists()


def test_f39_constant_missing_and_doubled_features_are_measured_warned_of_and_divide_by_nothing(
    prepare: Prepare,
) -> None:
    items = ITEMS.with_columns(again=pl.col("colour"), one=pl.lit("x"), none=pl.lit(None, pl.String), nan=pl.lit(NAN))
    assert prepare(LOG, items, "--item-feature", "nan=numeric,nan=missing")[0] == 0
    code, said = call("compute-mi", "--run", "run")
    assert code == 0
    for name in ("one", "none", "nan"):
        assert f"feature {name} has one value in the whole catalogue" in said
    assert "features again and colour say the same" in said
    matrix = artifact("mutual_information")
    assert matrix.select(pl.col(pl.Float64).is_finite().all()).row(0) == (True,) * len(
        matrix.select(pl.col(pl.Float64)).columns
    )
    own = {(a, b): (mi, h) for a, b, mi, h in matrix.select("feature_a", "feature_b", "mi", "entropy_a").rows()}
    assert own["again", "colour"][0] == pytest.approx(np.log(5))
    assert own["again", "colour"][0] == pytest.approx(own["again", "colour"][1])
    assert all(own["colour", name][0] == 0 for name in ("one", "none", "nan"))
    train_and_export()


def test_f40_new_values_are_unknown_and_counted_and_a_missing_column_is_refused(prepare: Prepare) -> None:
    items = ITEMS.with_columns(size=pl.int_range(40).cast(pl.Float64))
    assert prepare(LOG, items)[0] == 0
    train_and_export()
    new = pl.DataFrame({"extra": [1, 2], "size": [3.0, 4.0], "colour": ["c0", "new"], "item_id": ["n0", "n1"]})

    def export(table: pl.DataFrame) -> tuple[int, str]:
        table.write_parquet("new.parquet")
        return call("export-embeddings", "--run", "run", "--items", "new.parquet", "--output", "out.parquet")

    code, said = export(new)
    assert code == 0
    assert "1 values of colour are not in the vocabulary; taken as unknown" in said
    straight = pl.read_parquet("out.parquet")
    assert export(new.select("item_id", "colour", "size"))[0] == 0
    assert pl.read_parquet("out.parquet").equals(straight)
    refused(export(new.drop("colour")), "NO_COLUMN: ", "no column 'colour'")
    _, said = export(new.with_columns(colour=pl.Series([7, 8])))
    assert "2 values of colour are not in the vocabulary; taken as unknown; that is all of them" in said
    refused(export(new.with_columns(colour=pl.lit("y" * 100_000))), "LIMIT: ", "column 'colour' holds a value of")


def test_f41_the_future_changes_nothing_that_training_reads(prepare: Prepare) -> None:
    flags = ["--timestamp", "t", "--validation-share", "0.2", "--test-share", "0.2"]
    made = ("train", "popularity", "views", "features", "vocabulary", "items", "mutual_information", "training")

    def hashes(log: pl.DataFrame) -> dict[str, str]:
        assert prepare(log, ITEMS, *flags)[0] == 0
        train_and_export("--history", "4", "--select-on", "all")
        files = [*(f"{name}.parquet" for name in made[:-1]), "model/weights.safetensors"]
        return {name: hashlib.sha256(Path("run", name).read_bytes()).hexdigest() for name in files}

    before = hashes(LOG)
    cut = artifact("validation")["timestamp"].min()
    later = pl.col("t") >= cut
    others = pl.format("i{}", ((pl.col("item_id").str.slice(1).cast(pl.Int64) + 20) % 40).cast(pl.String).str.zfill(2))
    planted = LOG.with_columns(item_id=pl.when(later).then(others).otherwise("item_id"))
    held_out = artifact("test")["item_id"].to_list()
    assert hashes(planted) == before
    assert artifact("test")["item_id"].to_list() != held_out
    leak = planted.with_columns(t=pl.when(pl.int_range(180) == 179).then(pl.lit(cut - 1)).otherwise("t"))  # control
    changed = {name for name, digest in hashes(leak).items() if digest != before[name]}
    assert {"train.parquet", "popularity.parquet", "model/weights.safetensors"} <= changed
