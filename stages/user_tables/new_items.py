"""Encode a table of new items by the vocabularies of the training."""

from pathlib import Path
from typing import TYPE_CHECKING

from ssl_recall.data.codes import CODE, DEFAULT, UNKNOWN, Kind
from stages.options import from_values
from stages.run_folder import layout, reader, source_files
from stages.terminal import console

from . import declarations, feature_columns, id_columns, tables
from .feature_columns import Feature, encode_column
from .problems import Problems, need_column
from .settings import PrepareSettings

if TYPE_CHECKING:
    import polars as pl

    from ssl_recall.data.features import EncodedTable
    from ssl_recall.data.vocabularies import Column


def read(job: reader.Reader, path: Path) -> "tuple[pl.Series, EncodedTable]":
    """Read the ids and the codes of a user's table; columns may come in any order, extra ones are ignored.

    An id without a vector becomes the default; a value outside the vocabulary becomes unknown, and is counted. Raises
    InputError with every problem: missing columns, repeated or missing ids, numbers that are not finite.
    """
    import polars as pl

    from ssl_recall.data.features import encoded_table
    from ssl_recall.data.vocabularies import clean, encode

    settings = from_values(PrepareSettings, job.manifest["stages"]["prepare"]["settings"])
    features = job.read(layout.FEATURES).filter(side="item")
    vocabulary = job.read(layout.VOCABULARY)
    words = {str(name): rows for (name,), rows in vocabulary.partition_by("vocabulary", as_dict=True).items()}
    problems = Problems(f"--items {path}")
    table = _table(job, path, settings, features, problems)
    ids = table.column(settings.id_in_table("item"))
    encoded = []
    for column in _columns(table, settings, features, problems):
        feature = encode_column(table, column, problems, words.get(column.name, vocabulary.clear()))
        encoded += [feature] if feature is not None else []
    _check_widths(encoded, features, problems)
    problems.stop_if_any()

    id_words = words.get("item_id", vocabulary.clear())
    coded = {"item_id" + CODE: encode(ids.cast(pl.String), Kind.ID, id_words)}
    for feature in encoded:
        name = feature.column.name
        coded[name + CODE] = feature.codes
        if feature.column.kind is Kind.DENSE:
            coded[name] = clean(table.column(name), feature.column)
        else:
            _warn_of_unknown(feature, table)
    return ids.alias("item_id"), encoded_table(pl.DataFrame(coded), features)


def _table(
    job: reader.Reader, path: Path, settings: PrepareSettings, features: "pl.DataFrame", problems: Problems
) -> tables.Table:
    """Open the table with the types of the training, and check its columns and its ids."""
    import polars as pl

    id_name = settings.id_in_table("item")
    known = job.read(layout.ITEMS, ["item_id"])["item_id"]
    table = tables.scan(path, "--items", [id_name])
    if known.dtype == pl.String and id_name in table.schema and source_files.is_csv(path):
        table = table.with_text(id_name)  # a CSV file has no types
    wanted = [id_name if name == "item_id" else name for name in features["feature"]]
    for name in wanted:
        need_column(table.schema, name, "a column named", problems)
    problems.stop_if_any()
    if text := table.too_large(id_name):
        problems.add("LIMIT", f"column {id_name!r} {text}")
        problems.stop_if_any()
    ids = table.column(id_name)
    id_columns.check_ids(ids, "--item-id", problems, unique=True)
    if not id_columns.comparable(ids, known):
        text = f"{ids.name} is of type {ids.dtype} but {known.dtype} in the catalogue; write it as {known.dtype}"
        problems.add("ID_TYPES", text)
    return _with_missing_vectors(table, features)


def _with_missing_vectors(table: tables.Table, features: "pl.DataFrame") -> tables.Table:
    """Cast dense columns without a single vector, which may have any type, to the vector width of the training."""
    import polars as pl

    for name, width in features.filter(kind="dense").select("feature", "width").iter_rows():
        if table.too_large(name) is None and table.select(table.at(name).is_not_null().any()).item() in (False, None):
            table = table.on(table.frame.with_columns(pl.lit(None, pl.Array(pl.Float32, width)).alias(name)))
    return table


def _columns(
    table: tables.Table, settings: PrepareSettings, features: "pl.DataFrame", problems: Problems
) -> "list[Column]":
    """Declare every feature with the kind and the options that `prepare` recorded."""
    import polars as pl

    from ssl_recall.data.vocabularies import Column

    given = dict(declarations.split(line) for line in settings.item_features or [])
    kinds = features.filter(features["kind"] != "id").select("feature", "kind")
    declared = [f"{name}={kind}" + (f",{given[name]}" if given.get(name) else "") for name, kind in kinds.iter_rows()]
    id_name = settings.id_in_table("item")
    schema = pl.Schema({name: table.schema[name] for name in (id_name, *kinds["feature"])})
    defaults = Column("", Kind.CATEGORICAL, settings.min_count, settings.max_values, settings.buckets)
    return feature_columns.columns_of(schema, id_name, declared, "--item-feature", defaults, problems)


def _check_widths(encoded: list[Feature], features: "pl.DataFrame", problems: Problems) -> None:
    """Note vectors whose width differs from the training's."""
    widths = dict(features.filter(kind="dense").select("feature", "width").iter_rows())
    for feature in encoded:
        name = feature.column.name
        if name in widths and feature.width != widths[name]:
            text = f"holds vectors of {feature.width} numbers, the model was trained on {widths[name]}"
            problems.add("FEATURE", f"column {name!r} {text}")


def _warn_of_unknown(feature: Feature, table: tables.Table) -> None:
    """Warn of values outside the vocabulary; ask about the spelling if all of them are outside."""
    name, codes = feature.column.name, feature.codes.explode()
    unknown = int((codes == UNKNOWN).sum())
    if not unknown:
        return
    hint = ""
    if unknown == len(codes.drop_nulls()) - int((codes == DEFAULT).sum()):
        examples = table.column(name).drop_nulls().head(3).to_list()
        hint = f"; that is all of them: are they written as in the catalogue? Examples: {examples}"
    console.warn(f"{table.path}: {unknown:,} values of {name} are not in the vocabulary; taken as unknown{hint}")
