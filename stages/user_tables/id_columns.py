"""Check columns of ids: their types, rows without an id, and whether two columns can be compared."""

from typing import TYPE_CHECKING

from .problems import Problems

if TYPE_CHECKING:
    import polars as pl

EXAMPLES = 5
VISIBLE = r"[^\s\p{Cc}\p{Cf}\p{Z}]"  # a character that is no space, control or format character


def check_ids(
    ids: "pl.Series", flag: str, problems: Problems, *, unique: bool, counted: str = "the first is 0"
) -> None:
    """Note ids that are null, blank, neither text nor integers, or (if `unique`) repeated."""
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
    """Mark the rows without an id: null or blank."""
    import polars as pl

    column = pl.col(name)
    return column.is_null() | ~column.str.contains(VISIBLE) if dtype == pl.String else column.is_null()


def comparable(ids: "pl.Series", others: "pl.Series") -> bool:
    """Tell whether one type holds both without loss; none holds text and numbers, or uint64 and int64."""
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
    """Mark the ids in `known`. Integers of two widths compare as int64; `check_same_type` has made that safe."""
    import polars as pl

    if ids.dtype != known.dtype:
        ids, known = ids.cast(pl.Int64), known.cast(pl.Int64)
    return ids.is_in(known.implode())


def _rows(mask: "pl.Series") -> str:
    at = mask.fill_null(False).arg_true()
    shown = at.to_list() if len(at) <= EXAMPLES else [*at.head(EXAMPLES - 1).to_list(), at[-1]]
    return f"{len(at):,} rows, such as {shown}"
