"""Write a settings file from the user's tables, with every guess visible."""

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.learning.suited_settings import for_a_log
from stages.learning.view_settings import ViewSettings, variants_of
from stages.run_folder import atomic_files
from stages.terminal import console
from stages.terminal.errors import SettingsError
from stages.user_tables import declarations, tables

from . import guesses

if TYPE_CHECKING:
    import polars as pl


DESCRIBED = 0.5  # prepare refuses a log with a larger unknown share
BARE = re.compile(r"^[A-Za-z0-9_-]+$")
SHOWN = {  # the settings of the other stages that a first-time user may want to change
    "compute_popularity": ("unseen_count",),
    "compute_mi": ("id",),
    "build_views": ("transform", "value_dropout", "variants"),
    "train": (
        "ssl_weight",
        "ssl_batch_size",
        "ssl_every",
        "ssl_temperature",
        "ssl_warmup_steps",
        "ssl_neighbour_weight",
        "temperature",
        "batch_size",
        "further_negatives",
        "cold_negative_rate",
        "epochs",
        "embedding_width",
        "width",
        "history",
    ),
    "export_embeddings": ("query_vectors",),
    "evaluate": ("k", "head_share"),
}


def init(
    ctx: typer.Context,
    interactions: Annotated[Path, typer.Option(help="Parquet or CSV: a file, a folder or a glob.")],
    items: Annotated[Path, typer.Option(help="The catalogue, one row an item.")],
    queries: Annotated[Path | None, typer.Option(help="Features of the queries (users, or seed items).")] = None,
    output: Annotated[Path, typer.Option(help="The settings file to write.")] = Path("ssl-recall.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Guess ids, time, weight and the kind of each column from your tables; write a commented settings file.

    Reads the tables; writes the file. It keeps the paths as given: run the next commands in the same folder.
    """
    if output.exists() and not force:
        raise SettingsError(f"{output}: exists; give another --output, or --force to overwrite it", "EXISTS")
    if interactions.resolve() == items.resolve():
        text = f"--interactions and --items are both {items}; a log and a catalogue are needed"
        raise SettingsError(text, "SAME_FILE")
    log, large_log = tables.read(interactions, "--interactions")
    catalogue, large = tables.read(items, "--items")
    asked, large_asked = tables.read(queries, "--queries") if queries else (None, {})
    for name, why in large_log.items():
        console.warn(f"--interactions: column {name!r} is skipped: it {why}")
    found = guesses.of_tables(log, catalogue, asked)
    lines = [
        "# Settings of ssl-recall: one table per stage, keys named as its flags. Guessed from your tables: check, then",
        f"#   ssl-recall run --config {console.printable(str(output))}",
        f"run = {_text('runs/' + _name_of(interactions))}",
        "",
        "[prepare]",
        f"interactions = {_text(str(interactions))}",
        f"items = {_text(str(items))}{_without(catalogue[found.items_id])}",
        *_queries(queries, found.described),
        *_columns(found, log),
        "",
        "[prepare.item_features]  # categorical, multi-valued, numeric, dense or exclude",
        *_features(catalogue[[c for c in catalogue.columns if c != found.items_id]], guesses.of_column, large),
    ]
    if asked is not None and found.described >= DESCRIBED:
        guess = partial(guesses.of_queries_column, items=catalogue) if found.queries_are_items else guesses.of_column
        lines += [
            "",
            "[prepare.query_features]",
            *_features(asked[[c for c in asked.columns if c != found.queries_id]], guess, large_asked),
        ]
    lines += _defaults(ctx, log.height, catalogue.height, queries_are_items=found.queries_are_items)
    text = "\n".join(lines) + "\n"
    with atomic_files.replacing(output) as file:
        file.write(text.encode())
    if found.unusable_time is not None:
        console.warn(
            f"{found.unusable_time} {guesses.of_no_time(log[found.unusable_time])}: write dates, "
            "datetimes (2024-01-29 12:05) or integers, or the split is by a hash and not by time"
        )
    if left_out := [*(f"{name} of the interactions" for name in found.unused), *_left_out(text)]:
        console.out.print(f"left out: {console.printable(', '.join(left_out))} (the file says why)", soft_wrap=True)
    console.out.print(f"{output}: look over the guesses, then run: ssl-recall run --config {output}", soft_wrap=True)


def _left_out(text: str) -> list[str]:
    """Name the columns that the settings leave out."""
    prepare = tomllib.loads(text)["prepare"]
    kinds = [pair for side in ("item_features", "query_features") for pair in prepare.get(side, {}).items()]
    return [name for name, kind in kinds if kind == declarations.EXCLUDE]


def _queries(path: Path | None, described: float) -> Iterator[str]:
    """Yield the line of the queries' table and the share of interactions that it sets aside; left out if most."""
    if path is not None and described >= DESCRIBED:
        rest = f"  # {1 - described:.1%} of the interactions have a query outside this table and are set aside"
        yield f"queries = {_text(str(path))}{rest if described < 1 else ''}"
    elif path is not None:
        rest = f"  # left out: {1 - described:.1%} of the interactions have a query outside this table"
        yield f"# queries = {_text(str(path))}{rest}"


def _columns(found: "guesses.Guesses", log: "pl.DataFrame") -> Iterator[str]:
    """Yield the lines that name the columns of the interactions."""
    yield f"query_id = {_text(found.query_id)}{_without(log[found.query_id])}"
    if found.queries_id != found.query_id:
        yield f"queries_id = {_text(found.queries_id)}  # the same id in the queries' table"
    yield f"item_id = {_text(found.item_id)}{_without(log[found.item_id])}"
    if found.items_id != found.item_id:
        yield f"items_id = {_text(found.items_id)}  # the same id in the items' table"
    if found.unusable_time is not None:
        why = f"{guesses.of_no_time(log[found.unusable_time])}: the split is by a seeded hash"
        yield f"# timestamp = {_text(found.unusable_time)}  # {why}"
    elif found.timestamp is None:
        yield '# timestamp = "..."  # no column holds times: the split is by a seeded hash of the pair'
    else:
        yield f"timestamp = {_text(found.timestamp)}  # the newest interactions are held out"
        if missing := log[found.timestamp].null_count():
            yield f'null_timestamp = "quarantine"  # {missing:,} of {log.height:,} rows have no time'
    if found.weight is None:
        yield '# weight = "..."  # no column has the name of a rating or an amount'
    else:
        least, most = str(log[found.weight].min()), str(log[found.weight].max())
        yield f"weight = {_text(found.weight)}  # from {least} to {most}; without min_weight a {least} is a positive"
        yield f"# min_weight = {found.min_weight:g}  # keep interactions of at least this weight"
    if found.unused:
        yield f"# not used: {console.printable(', '.join(found.unused))}; is one a time, or a rating?"
    yield f"queries_are_items = {str(found.queries_are_items).lower()}  # true: item to item, both sides share vectors"
    yield "use_query_id = true"
    for name, value in (("validation_share", 0.1), ("test_share", 0.1)):
        yield f"# {name} = {value}"


def _without(ids: "pl.Series") -> str:
    missing = ids.null_count()
    return f"  # null in {missing:,} of {len(ids):,} rows: prepare refuses these, remove them" if missing else ""


def _features(
    frame: "pl.DataFrame", guess: "Callable[[pl.Series], tuple[str, str]]", large: dict[str, str]
) -> Iterator[str]:
    """Yield a line per column: its kind and the evidence for it; columns too large to read are excluded."""
    for values in frame:
        kind, why = guess(values)
        yield f"{_key(values.name)} = {_text(kind)}  # {console.printable(why)}"
    for name, why in large.items():
        yield f"{_key(name)} = {_text(declarations.EXCLUDE)}  # {console.printable(why)}"


def _defaults(ctx: typer.Context, interactions: int, items: int, *, queries_are_items: bool) -> Iterator[str]:
    """Yield the other stages' main settings with their defaults, commented out, as the commands declare them.

    Settings that suit this log are set, with the reason.
    """
    own_default = {"variants": variants_of(ViewSettings(), items)}
    better = for_a_log(interactions, items, queries_are_items=queries_are_items)
    assert ctx.parent is not None, "init is a subcommand"
    commands: dict[str, Any] = getattr(ctx.parent.command, "commands", {})
    for stage, names in SHOWN.items():
        parameters = {parameter.name: parameter for parameter in commands[stage.replace("_", "-")].params}
        yield ""
        yield f"[{stage}]"
        for name in names:
            text = " ".join((parameters[name].help or "").split())
            value = _toml(own_default.get(name, parameters[name].default))
            if stage == "train" and name in better:
                own, why = better[name]
                yield f"{name} = {_toml(own)}  # {text} {why}"
                continue
            yield f"# {name} = {value}  # {text}"


def _toml(value: object) -> str:
    """Write a default as TOML."""
    return _text(str(value)) if isinstance(value, str) else json.dumps(value)


def _text(value: str) -> str:
    """Write a TOML basic string."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if BARE.match(name) else _text(name)


def _name_of(path: Path) -> str:
    """Name a run after the folder or the file of its interactions."""
    stem = path.stem if path.suffix else path.name
    name = path.resolve().parent.name if stem in {"interactions", "events", "*"} or "*" in stem else stem
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "default"
