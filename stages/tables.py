"""The user's tables: found, read and held to what the pipeline needs, all problems of a table told at once."""

import contextlib
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import limits, sources
from .errors import InputError
from .limits import Limits

if TYPE_CHECKING:
    import polars as pl

EXAMPLES = 5
VISIBLE = r"[^\s\p{Cc}\p{Cf}\p{Z}]"  # a character that is no space, control or format character
SIDES = {"query": "queries", "item": "items"}


class Problems:
    """What is wrong with one table; raised together, so that one run shows all there is to mend."""

    def __init__(self, table: str) -> None:
        """Name the table as the user knows it."""
        self.table, self.found = table, list[tuple[str, str]]()

    def add(self, rule: str, text: str) -> None:
        """Note one problem."""
        self.found.append((rule, text))

    def stop_if_any(self) -> None:
        """Raise InputError with every problem noted."""
        if len(self.found) == 1:
            raise InputError(f"{self.table}: {self.found[0][1]}", self.found[0][0])
        if self.found:
            lines = "".join(f"\n  {rule}: {text}" for rule, text in self.found)
            raise InputError(f"{self.table}: {len(self.found)} problems{lines}", self.found[0][0])


@dataclass(frozen=True)
class Table:
    """One of the user's tables: Parquet is read when columns are asked for, CSV is in memory."""

    path: Path
    frame: "pl.LazyFrame"
    schema: "pl.Schema"
    raw: "pl.LazyFrame"  # as the files hold it, which `too_large` measures
    large: Mapping[str, str]  # columns of which a footer says that they are too large, and why
    limits: Limits

    def too_large(self, name: str) -> str | None:
        """Say what of a column is over a limit, None where nothing is; ask before it is read."""
        if name in self.large:
            return self.large[name]
        with self._readable():
            types = self.raw.collect_schema()
            return limits.exceeded(self.raw, self.at(name), types[name], self.limits)

    def select(self, *what: "str | pl.Expr", low: int = 0, rows: int | None = None) -> "pl.DataFrame":
        """Compute columns, or expressions of them, of all rows or a slice. Raises InputError for unreadable files."""
        frame = self.frame.select(self.at(name) if isinstance(name, str) else name for name in what)
        return self.collect(frame if rows is None else frame.slice(low, rows))

    def collect(self, frame: "pl.LazyFrame") -> "pl.DataFrame":
        """Compute what was built on `frame`, a batch of rows at a time, so that no more than the result is held."""
        with self._readable():
            return frame.collect(engine="streaming")

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        import polars as pl

        try:
            yield
        except (pl.exceptions.PolarsError, ValueError, pl.exceptions.PanicException) as error:
            raise _unreadable(self.path, error) from None

    def at(self, name: str) -> "pl.Expr":
        """Name a column by its place, for `pl.col("*")` would be every column."""
        import polars as pl

        return pl.nth(self.schema.names().index(name))

    def column(self, name: str) -> "pl.Series":
        """Read one column."""
        return self.select(name)[name]

    def with_text(self, name: str) -> "Table":
        """Take a column for text."""
        import polars as pl

        frame = self.frame.with_columns(pl.col(name).cast(pl.String))
        return self.on(frame)

    def on(self, frame: "pl.LazyFrame") -> "Table":
        """Take what was built on `frame` for the table."""
        return replace(self, frame=frame, schema=frame.collect_schema())


def scan(path: Path, flag: str, ids: Sequence[str] = (), most: Limits = Limits()) -> Table:  # noqa: B008
    """Open Parquet or CSV files as one table. Raises SettingsError for none, InputError for bad ones.

    CSV has no types: a column is what all its values are, but the `ids`, and whole numbers that are not written as
    such (01), stay text.
    """
    import polars as pl

    files = sources.needed(path, flag)
    kinds = {sources.is_csv(file): file for file in files}
    if len(kinds) > 1:
        raise InputError(f"{path}: CSV and Parquet are mixed: {kinds[True]}, {kinds[False]}", "UNREADABLE")
    large = {}
    if not kinds.get(True):
        _same_columns(path, files)
        large = limits.of_footers(files, most)
    try:
        raw = _csv(files, ids).lazy() if kinds.get(True) else pl.scan_parquet(files, glob=False)
        wide = [name for name in ("Int128", "UInt128") if hasattr(pl, name)]  # numpy and Arrow have neither
        frame = raw.with_columns(
            pl.col(pl.Categorical, pl.Enum).cast(pl.String),
            pl.col(*(getattr(pl, name) for name in wide)).cast(pl.Int64),
        )
        return Table(path, frame, frame.collect_schema(), raw, large, most)
    except (pl.exceptions.PolarsError, ValueError, pl.exceptions.PanicException) as error:
        raise _unreadable(path, error) from None


def read(path: Path, flag: str, ids: Sequence[str] = ()) -> "tuple[pl.DataFrame, dict[str, str]]":
    """Read all columns of a table but those that are over a limit: the frame, and what is wrong with the others."""
    table = scan(path, flag, ids)
    large = {name: text for name in table.schema if (text := table.too_large(name)) is not None}
    return table.select(*(name for name in table.schema if name not in large)), large


def _csv(files: list[Path], ids: Sequence[str]) -> "pl.DataFrame":
    import polars as pl

    for file in files:
        limits.hold_lines(file)
    separator = _separator(files[0])
    if len(files) > 1:  # a file of nothing but a header would make every column text
        rows = (pl.scan_csv(file, separator=separator, infer_schema=False).head(1).collect().height for file in files)
        files = [file for file, some in zip(files, rows, strict=True) if some] or files[:1]
    frame = pl.scan_csv(files, separator=separator, try_parse_dates=True, infer_schema_length=None).collect()
    doubtful = [c for c, dtype in frame.schema.items() if dtype.is_integer() or (c in ids and dtype != pl.String)]
    as_written = pl.scan_csv(files, separator=separator, infer_schema=False).select(doubtful).collect()
    return frame.with_columns(text for text in as_written if not is_whole(text))


def _same_columns(path: Path, files: list[Path]) -> None:
    """Hold Parquet files that are one table to the columns of the first. Raises InputError for one that differs."""
    import polars as pl

    first: dict[str, pl.DataType] = {}
    for file in files:
        try:
            own = dict(pl.read_parquet_schema(file))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _unreadable(file, error) from None
        first = first or own
        for name in sorted(first.keys() | own.keys()):
            if first.get(name) != own.get(name):
                types = [f"of type {schema[name]}" if name in schema else "missing" for schema in (own, first)]
                raise InputError(
                    f"{path}: {name} is {types[0]} in {file} but {types[1]} in {files[0]}; write them alike",
                    "UNREADABLE",
                )


def _unreadable(path: Path, error: BaseException) -> InputError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    if "128`" in first and "failed" in first:  # polars: conversion from `i128` to `i64` failed
        text = f"{path}: holds integers of 128 bits (Int128) that are beyond Int64; write them as text ({first})"
        return InputError(text, "ID_TYPES")
    hint = "; save it as UTF-8" if "utf-8" in first.lower() else ""
    if "PAR1" in first or "magic" in first.lower():
        hint = "; is it cut off, or still being written?"
    return InputError(f"{path}: cannot be read ({first}){hint}", "UNREADABLE")


def _separator(file: Path) -> str:
    """Find what separates the columns of a CSV file: of comma, semicolon and tab the one its first line has most of."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        first = lines.readline(100_000)
    return max(",;\t", key=first.count)


def is_whole(texts: "pl.Series") -> bool:
    """Tell whether every text is a whole number as one is written, so that nothing is lost in reading it as one."""
    import polars as pl

    return bool((texts.cast(pl.Int64, strict=False).cast(pl.String) == texts).fill_null(texts.is_null()).all())


def id_column(settings: Mapping[str, Any], side: str) -> str:
    """Name the column of a side's own table that holds its ids: as in the interactions, or as it is given."""
    return str(settings.get(f"{SIDES[side]}_id") or settings[f"{side}_id"])


def scan_all(paths: dict[str, Path], settings: Mapping[str, Any], most: Limits) -> dict[str, Table]:
    """Open the tables; where one holds an id as text, a CSV beside it does so too."""
    import polars as pl

    named = {side: {"interactions": settings[f"{side}_id"], SIDES[side]: id_column(settings, side)} for side in SIDES}
    ids = {name: [columns[name] for columns in named.values() if name in columns] for name in paths}
    found = {name: scan(path, f"--{name}", ids[name], most) for name, path in paths.items()}
    for columns in named.values():
        pair = {name: column for name, column in columns.items() if name in found and column in found[name].schema}
        if any(found[name].schema[column] == pl.String for name, column in pair.items()):
            for name, column in pair.items():
                if sources.is_csv(paths[name]):
                    found[name] = found[name].with_text(column)
    return found


def need_column(columns: Collection[str], name: str, flag: str, problems: Problems, more: str = "") -> bool:
    """Note a column that is not there, with the nearest that is."""
    if name in columns:
        return True
    close = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
    hint = f"; did you mean {flag} {close[0]!r}?" if close else f"; there are {', '.join(columns)}"
    problems.add("NO_COLUMN", f"no column {name!r}{hint}{more}")
    return False


def check_ids(
    ids: "pl.Series", flag: str, problems: Problems, *, unique: bool, counted: str = "the first is 0"
) -> None:
    """Note ids that are missing, blank, of a type that cannot name things, or (where unique) given twice."""
    import polars as pl

    title, ids = ids.name, ids.alias("ids")  # polars takes a name such as ^a.*$ for a pattern
    if not may_name(ids.dtype):
        problems.add("ID_TYPES", f"{title} is of type {ids.dtype}; ids are text or integers (see {flag})")
        return
    null = ids.is_null()
    if null.any():
        problems.add("NULL_ID", f"{title} is null in {_rows(null)} ({counted}); remove these rows or give them an id")
    if ids.dtype == pl.String:
        blank = ~ids.str.contains(VISIBLE)
        if blank.any():
            problems.add(
                "EMPTY_ID",
                f"{title} is empty or blank in {_rows(blank)} ({counted}); remove these rows or give them an id",
            )
    if unique and (twice := ids.drop_nulls().filter(ids.drop_nulls().is_duplicated())).len():
        names = twice.unique().sort().head(EXAMPLES).to_list()
        rule = "DUP_" + flag.strip("-").replace("-", "_").upper()
        problems.add(
            rule, f"{twice.n_unique():,} of the {title} stand in several rows, such as {names}; keep one row of each"
        )


def may_name(dtype: "pl.DataType") -> bool:
    """Tell whether values of a type can be ids."""
    import polars as pl

    return dtype == pl.String or dtype.is_integer()


def is_no_id(name: str, dtype: "pl.DataType") -> "pl.Expr":
    """Tell which rows name nothing: a null or a blank."""
    import polars as pl

    column = pl.col(name)
    return column.is_null() | ~column.str.contains(VISIBLE) if dtype == pl.String else column.is_null()


def comparable(ids: "pl.Series", others: "pl.Series") -> bool:
    """Tell whether one type holds both without losing anything; none does text and numbers, or uint64 and int64."""
    import polars as pl

    types = {ids.dtype, others.dtype}
    return len(types) == 1 or (all(dtype.is_integer() for dtype in types) and pl.UInt64 not in types)


def check_same_type(table: str, log: "pl.Series", ids: "pl.Series", problems: Problems) -> None:
    """Note two columns of ids that cannot be compared."""
    if comparable(log, ids):
        return
    problems.add(
        "ID_TYPES",
        f"{log.name} is of type {log.dtype} in the interactions but {ids.dtype} in the {table}; "
        "write both tables with one type",
    )


def among(ids: "pl.Series", known: "pl.Series") -> "pl.Series":
    """Tell which ids are known; whole numbers of two widths compare as int64, which `check_same_type` has made safe."""
    import polars as pl

    if ids.dtype != known.dtype:
        ids, known = ids.cast(pl.Int64), known.cast(pl.Int64)
    return ids.is_in(known.implode())


def _rows(mask: "pl.Series") -> str:
    at = mask.fill_null(False).arg_true()
    shown = at.to_list() if len(at) <= EXAMPLES else [*at.head(EXAMPLES - 1).to_list(), at[-1]]
    return f"{len(at):,} rows, such as {shown}"
