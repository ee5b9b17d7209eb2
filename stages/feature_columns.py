"""Which columns of a table are features, how they are declared, and their codes."""

import difflib
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from . import console
from .errors import SettingsError
from .tables import Problems

if TYPE_CHECKING:
    import polars as pl

    from ssl_recall.vocabularies import Column

CODE = "__code"  # ssl_recall.features.CODE, which would load torch
EXCLUDE = "exclude"
KINDS = ("categorical", "multi-valued", "numeric", "dense", EXCLUDE)
NUMBERS = ("min_count", "max_values", "buckets")


def merged(ctx: typer.Context, param: typer.CallbackParam, value: list[str] | None) -> list[str]:
    """Let a flag's NAME=KIND win over the settings file's line for the same column, and leave its other lines alone."""
    kept: dict[str, str] = {}
    for declaration in [*((ctx.default_map or {}).get(str(param.name)) or []), *(value or [])]:
        kept[split(declaration)[0]] = declaration
    return list(kept.values())


def split(declaration: str) -> tuple[str, str]:
    """Cut NAME=KIND[,OPTION=VALUE..] into the name, which may hold "=" or "," itself, and the options."""
    found = re.match(rf"(.+?)=\s*(?:{'|'.join(KINDS)})?\s*(?:$|,(.*))", declaration, re.DOTALL)
    return (found[1], found[2] or "") if found else (declaration.partition("=")[0], "")


def declared(declarations: list[str], names: list[str], flag: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Parse NAME=KIND[,option=value..]: -> name -> (kind, options). Raises SettingsError for what it cannot be."""
    parsed: dict[str, tuple[str, dict[str, str]]] = {}
    for declaration in declarations:
        own = [name for name in names if declaration.startswith(f"{name}=")]  # a name may hold "=" or "," itself
        name = max(own, key=len, default=declaration.partition("=")[0])
        equals, setting = declaration[len(name) :][:1], declaration[len(name) + 1 :]
        kind, *options = re.split(r",(?=\s*\w+=)", setting)  # so that separator=, is one option
        pairs = dict(option.lstrip().partition("=")[::2] for option in options)
        known = {*NUMBERS, "separator", "nan"}
        wrong = [key for key in pairs if key not in known]
        if not equals or wrong:
            what = f"has no option {wrong[0]!r}" if wrong else "is not NAME=KIND"
            raise SettingsError(f"{flag} {declaration!r} {what}; options: {', '.join(sorted(known))}", "FEATURE")
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            raise SettingsError(
                f"{flag}: no column {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""), "FEATURE"
            )
        if mistake := _mistake(kind.strip(), pairs):
            raise SettingsError(f"{flag} {declaration!r}: column {name!r} {mistake}", "FEATURE")
        parsed[name] = (kind.strip(), pairs)
    return parsed


def _mistake(kind: str, options: dict[str, str]) -> str:
    """Say what is wrong with a declared kind (none: the one of the type) or the values of its options."""
    if kind not in {"", *KINDS}:
        close = difflib.get_close_matches(kind, KINDS, n=1)
        return f"is of no kind {kind!r}" + (f"; did you mean {close[0]!r}?" if close else f": {', '.join(KINDS)}")
    for key in NUMBERS:
        if key in options and not (options[key].isdecimal() and int(options[key])):
            return f"needs {key} of at least 1, has {options[key]!r}"
    nan = options.get("nan", "missing")
    return "" if nan in {"missing", "refuse"} else f"has nan={nan}; it can be missing or refuse"


def columns_of(
    schema: "pl.Schema", id_name: str, declarations: list[str], flag: str, defaults: "Column", problems: Problems
) -> "list[Column]":
    """Decide on every column but the id: the declared kind, else the one its type tells, with its options."""
    from ssl_recall.features import Kind
    from ssl_recall.vocabularies import guess_kind

    names = [name for name in schema if name != id_name]
    given = declared(declarations, names, flag)
    columns = []
    for name in names:
        kind, options = given.get(name, ("", {}))
        if kind == EXCLUDE:
            continue
        if what := bad_name(name):
            problems.add("COLUMN_NAME", f"column {name!r} {what}; rename or exclude it")
            continue
        try:
            chosen = Kind(kind) if kind else guess_kind(schema[name])
            columns.append(_with_options(replace(defaults, name=name, kind=chosen), options))
        except ValueError as error:
            problems.add("FEATURE", f"column {name!r} {error} ({flag} {name}=..)")
    return columns


def bad_name(name: str) -> str:
    """Say why a column cannot have the name it has; nothing where it can."""
    if "\0" in name:  # Arrow's names end there
        return "has a NUL in its name"
    if name.endswith(CODE) or name in {"item_id", "query_id"}:
        return "has a name that the artifacts use"
    return "" if name else "has no name"


def _with_options(column: "Column", options: dict[str, str]) -> "Column":
    """Apply min_count=N, max_values=N, buckets=N, separator=S, nan=missing."""
    numbers = {key: int(options[key]) for key in NUMBERS if key in options}
    return replace(
        column,
        min_count=numbers.get("min_count", column.min_count),
        max_values=numbers.get("max_values", column.max_values),
        buckets=numbers.get("buckets", column.buckets),
        separator=options.get("separator", column.separator),
        nan_is_missing=options.get("nan") == "missing",
    )


def cleaned(values: "pl.Series", column: "Column", problems: Problems) -> "pl.Series | None":
    """Bring a feature column to its plain form, or note why it cannot be; tells of lists that are cut."""
    from ssl_recall.features import Kind
    from ssl_recall.vocabularies import NotFiniteError, clean, first_values

    try:
        plain = clean(values, column)
    except ValueError as error:
        rule = "NAN_FEATURE" if isinstance(error, NotFiniteError) else "FEATURE"
        problems.add(rule, f"column {column.name!r} {error}")
        return None
    if column.kind is Kind.MULTI_VALUED:
        plain, cut = first_values(plain, column.max_values)
        if cut:
            console.warn(
                f"{problems.table}: {cut:,} rows hold more than {column.max_values} values of {column.name!r}; "
                "the first ones are kept; [prepare] max_values keeps more"
            )
    return plain
