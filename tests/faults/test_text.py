"""Odd text stays byte for byte in the files, and never steers a terminal, a path or a log."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from stages.terminal import console

from .commands import call

ODD = [
    "caf\u00e9",
    "cafe\u0301",  # looks the same
    "z\u200bz",
    "\u202egnp.exe",
    "n\0n",
    "a\nb",
    "../x",
    "/etc/passwd",
    "..",
    "\ufeffbom",
    "a,b",
    " x ",
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    "[/]",
    "[red]x",
    "\x1b[2J",
    "\U0001f600",
]
STEERING = set("\x1b\0\r\u202e\u200b\x9b\u2028")
IDS = [*ODD, *(f"i{n}" for n in range(22))]
LOG = pl.DataFrame(
    [(f"{IDS[u]}", IDS[(u * 7 + k * 3) % 40], 1_600_000_000 + k * 86_400) for u in range(30) for k in range(6)],
    schema=["query_id", "item_id", "t"],
    orient="row",
)
FLAGS = ["--interactions", "log.parquet", "--items", "items.parquet", "--timestamp", "t", "--no-queries-are-items"]
TRAIN = "--epochs 1 --batch-size 32 --further-negatives 8 --ssl-batch-size 8 --ssl-warmup-steps 1 --width 8 --hidden 8"
MINE = "ssl-recall-secret-7f3a"


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write forty items with odd ids, columns and values to a new working folder."""
    monkeypatch.chdir(tmp_path)
    LOG.write_parquet("log.parquet")
    columns = {name: [IDS[n % 7] for n in range(40)] for name in ODD if name != "n\0n"}
    pl.DataFrame({"item_id": IDS, "colour": [f"c{n % 5}" for n in range(40)], **columns}).write_parquet("items.parquet")
    return tmp_path


def everything(run: str, *, said: list[str]) -> None:
    """Run the commands that read or show the items."""
    for command in (
        ["prepare", *FLAGS],
        ["compute-popularity"],
        ["compute-mi"],
        ["compute-mi", "--force", "--id", "include"],
        ["build-views", "--variants", "1"],
        *(["show-views", "--variant", "0", "--", item] for item in (*ODD, "nothing like it\x1b")),
        ["train", *TRAIN.split()],
        ["export-embeddings"],
    ):
        flags = command.index("--") if "--" in command else len(command)
        code, text = call(*command[:flags], "--run", run, *command[flags:])
        assert code in ({0, 2} if "show-views" in command else {0}), text
        assert "Traceback" not in text
        said.append(text)


def test_f36_odd_ids_come_back_byte_for_byte_and_name_no_file(odd: Path) -> None:
    everything("run", said=[])
    outside = sorted(path.name for path in odd.iterdir())
    assert outside == ["items.parquet", "log.parquet", "run"]
    names = {part for path in (odd / "run").rglob("*") for part in path.relative_to(odd / "run").parts}
    assert not any(item in name for name in names for item in ODD if item not in {"..", " x "})
    for name in ("items", "popularity", "item_embeddings", "views"):
        found = pl.read_parquet(f"run/{name}.parquet")["item_id"].unique().to_list()
        assert sorted(item.encode() for item in found) == sorted(item.encode() for item in IDS)
    asked = pl.read_parquet("run/query_embeddings.parquet")["query_id"].to_list()
    assert sorted(asked) == sorted(set(LOG["query_id"]))
    words = pl.read_parquet("run/vocabulary.parquet").filter(vocabulary="..")["value"]
    assert sorted(words) == sorted(IDS[:7])


def test_f36_odd_ids_of_a_csv_file_come_back_byte_for_byte(odd: Path) -> None:
    items = pl.read_parquet("items.parquet").select("item_id", "colour")
    log = LOG.filter(pl.col("item_id") != "n\0n", pl.col("query_id") != "n\0n")
    items.filter(pl.col("item_id") != "n\0n").write_csv("items.csv")
    log.write_csv("log.csv")
    flags = ["--interactions", "log.csv", "--items", "items.csv", "--timestamp", "t", "--no-queries-are-items"]
    code, text = call("prepare", *flags, "--run", "run")
    assert code == 0, text
    found = pl.read_parquet("run/items.parquet")["item_id"].to_list()
    assert sorted(found) == sorted(item for item in IDS if item != "n\0n")


def test_f46_no_title_steers_the_terminal_and_none_is_markup(odd: Path) -> None:
    said: list[str] = []
    everything("run", said=said)
    text = "".join(said)
    assert not STEERING & set(text)
    for shown in ("\\x1b[2J", "[/]", "[red]x", "<script>alert(1)</script>", "\\u202egnp.exe", "=cmd|"):
        assert shown in text


def test_f46_hostile_text_in_a_refusal_is_escaped(odd: Path) -> None:
    items = pl.read_parquet("items.parquet")
    for table in (
        pl.concat([items, items]),
        items.with_columns(pl.lit(float("nan")).alias("\x1b[31m[/]")),
        items.with_columns(pl.lit(1).alias("\x1b[31m__code")),
        items.with_columns(pl.lit(1).alias("n\0n")),
    ):
        table.write_parquet("items.parquet")
        code, text = call("prepare", *FLAGS, "--run", "run")
        assert code == 3
        assert not STEERING & set(text)
    code, text = call("prepare", *FLAGS, "--run", "run", "--query-id", "\x1b[2Jquery")
    assert (code, STEERING & set(text)) == (3, set())
    code, text = call("train", "--\x1b[2J", "1")
    assert (code, STEERING & set(text)) == (2, set())


@pytest.mark.parametrize("flag", ["--interactions", "--items", "--queries", "--run", "--config"])
def test_f46_a_password_in_a_path_is_not_echoed(odd: Path, flag: str) -> None:
    flags = {"--interactions": "log.parquet", "--items": "items.parquet", "--run": "run"}
    flags[flag] = f"s3://user:{MINE}@host/x"
    if flag == "--run":
        (odd / "s3:" / f"user:{MINE}@host" / "x" / "y").mkdir(parents=True)
    for debug in ([], ["--debug"]):
        code, text = call("prepare", *(part for pair in flags.items() for part in pair), *debug)
        assert code == 2
        assert MINE not in text
        assert "***@host" in text


def test_f46_only_the_password_goes_from_what_is_printed() -> None:
    assert console.printable("see s3://user:pw@host/x and b@c.d") == "see s3://***@host/x and b@c.d"
    assert console.printable("s3:/u:pw@h at 10:30:00 of a@b") == "s3:/***@h at 10:30:00 of a@b"
    for plain in ("/data/a:b/c@d", "https://host/x@y:z", "query 1:2@3"):
        assert console.printable(plain) == plain


def test_f46_no_secret_of_the_environment_is_in_any_output(odd: Path) -> None:
    code = "from stages.cli import main; main()"
    environment = {**os.environ, "AWS_SECRET_ACCESS_KEY": MINE, "SSL_RECALL_TOKEN": MINE}
    for command in (["prepare", *FLAGS], ["compute-mi"], ["prepare", "--items", "nothing"], ["tarin"]):
        ended = subprocess.run(
            [sys.executable, "-c", code, *command, *(["--run", "run"] if command != ["tarin"] else []), "--debug"],
            capture_output=True,
            env=environment,
        )
        assert ended.returncode in {0, 2}, ended.stderr
        assert MINE.encode() not in ended.stdout + ended.stderr
    for path in (odd / "run").rglob("*"):
        assert path.is_dir() or MINE.encode() not in path.read_bytes()
    assert "environ" not in json.dumps(json.loads((odd / "run/manifest.json").read_text()))


def test_f46_a_traceback_for_debugging_shows_no_local_variables(odd: Path) -> None:
    (odd / "items.parquet").write_bytes(b"PAR1")
    code, text = call("prepare", *FLAGS, "--run", "run", "--seed", "918273645", "--debug")
    assert code == 3
    assert "Traceback (most recent call last)" in text
    assert "918273645" not in text  # a setting, a local variable of several frames


def test_f46_no_column_s_name_steers_the_terminal_in_the_table_of_a_few(odd: Path) -> None:
    few = ["item_id", "colour", "\x1b[2J", "\u202egnp.exe"]
    pl.read_parquet("items.parquet").select(few).write_parquet("items.parquet")
    assert call("prepare", *FLAGS, "--run", "run")[0] == 0
    code, text = call("compute-mi", "--run", "run")
    assert (code, STEERING & set(text)) == (0, set())
    assert "\\x1b[2J" in text
