"""The user's tables, and the settings of `prepare`."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from stages.options import no_result

from . import declarations, limits

COLUMNS, FEATURES, SPLIT, LIMITS = "Columns", "Features", "Split", "Limits"
TABLES = "Tables"
_FEATURE_HELP = (
    "NAME=KIND[,OPTION=VALUE..]: categorical, multi-valued, numeric, dense or exclude; options min_count, max_values, "
    "buckets, separator, nan=missing. Repeatable; the type of any other column decides its kind."
)

SideName = Literal["query", "item"]
TABLE_OF: dict[SideName, str] = {"query": "queries", "item": "items"}


class NullTimestamp(StrEnum):
    """Whether to refuse or set aside interactions without a time if others have one."""

    REFUSE = "refuse"
    QUARANTINE = "quarantine"


@dataclass(frozen=True)
class SourceTables:
    """The user's tables: Parquet or CSV, each a file, a folder or a glob."""

    interactions: Annotated[Path, Option(help="Parquet or CSV: a file, a folder or a glob.", rich_help_panel=TABLES)]
    items: Annotated[Path, Option(help="The catalogue, one row an item.", rich_help_panel=TABLES)]
    queries: Annotated[
        Path | None, Option(help="Features of the queries (users, or seed items).", rich_help_panel=TABLES)
    ] = None

    @property
    def paths(self) -> dict[str, Path]:
        """Map the flag name of each given table to its path."""
        queries = {} if self.queries is None else {"queries": self.queries}
        return {"interactions": self.interactions, "items": self.items} | queries


@dataclass(frozen=True)
class PrepareSettings:
    """Every flag of `prepare` but the tables and the run folder's."""

    query_id: Annotated[str, Option(help="Column of the query's id.", rich_help_panel=COLUMNS)] = "query_id"
    item_id: Annotated[str, Option(help="Column of the item's id.", rich_help_panel=COLUMNS)] = "item_id"
    items_id: Annotated[
        str | None,
        Option(
            help="The item's id in --items. [default: named as in the interactions]",
            show_default=False,
            rich_help_panel=COLUMNS,
        ),
    ] = None
    queries_id: Annotated[
        str | None,
        Option(
            help="The query's id in --queries. [default: named as in the interactions]",
            show_default=False,
            rich_help_panel=COLUMNS,
        ),
    ] = None
    timestamp: Annotated[
        str | None, Option(help="Column of the time; with it the split is by time.", rich_help_panel=COLUMNS)
    ] = None
    null_timestamp: Annotated[
        NullTimestamp, Option(help="Refuse interactions without a time, or set them aside.", rich_help_panel=COLUMNS)
    ] = NullTimestamp.REFUSE
    weight: Annotated[str | None, Option(help="Column of the weight or rating.", rich_help_panel=COLUMNS)] = None
    min_weight: Annotated[
        float | None, Option(help="Keep interactions of at least this weight.", rich_help_panel=COLUMNS)
    ] = None
    queries_are_items: Annotated[
        bool | None,
        Option(
            help="Item to item: ids and features of one name share their vectors. [default: yes if at least 90 % of "
            "the query ids are item ids, where densely numbered ids do not count]",
            show_default=False,
            rich_help_panel=FEATURES,
        ),
    ] = None
    use_query_id: Annotated[bool, Option(help="Use the query's id as a feature.", rich_help_panel=FEATURES)] = True
    item_features: Annotated[
        list[str] | None,
        Option("--item-feature", callback=declarations.merged, help=_FEATURE_HELP, rich_help_panel=FEATURES),
    ] = None
    query_features: Annotated[
        list[str] | None,
        Option(
            "--query-feature",
            callback=declarations.merged,
            help="The same for queries.",
            rich_help_panel=FEATURES,
        ),
    ] = None
    min_count: Annotated[
        int, Option(min=1, help="Values in fewer rows become one value, 'unknown'.", rich_help_panel=FEATURES)
    ] = 1
    max_values: Annotated[
        int,
        Option(
            min=1,
            help="Values kept per list: the rarest of those that at least two rows have.",
            rich_help_panel=FEATURES,
        ),
    ] = 32
    buckets: Annotated[int, Option(min=2, help="Quantile buckets per numeric feature.", rich_help_panel=FEATURES)] = 10
    id_min_count: Annotated[
        int, Option(min=1, help="Training interactions that an id needs to get a vector.", rich_help_panel=FEATURES)
    ] = 1
    validation_share: Annotated[
        float, Option(min=0.0, max=0.9, help="Share held out for validation, to pick the epoch.", rich_help_panel=SPLIT)
    ] = 0.1
    test_share: Annotated[float, Option(min=0.0, max=0.9, help="Share held out for test.", rich_help_panel=SPLIT)] = 0.1
    train_fraction: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Train on about this share of the interactions not held out, to measure the effect of less data.",
            rich_help_panel=SPLIT,
        ),
    ] = 1.0
    seed: Annotated[
        int,
        Option(
            min=0,
            max=2**62,
            help="Seed of the split without --timestamp, and of --train-fraction.",
            rich_help_panel=SPLIT,
        ),
    ] = 1
    max_unknown_share: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Refuse if a larger share of the interactions names unknown items or queries.",
            rich_help_panel=LIMITS,
        ),
    ] = 0.5
    max_value_bytes: Annotated[int, Option(min=1, help="Refuse longer texts and ids.", rich_help_panel=LIMITS)] = (
        no_result(limits.VALUE_BYTES)
    )
    max_list_length: Annotated[
        int, Option(min=1, help="Refuse longer lists and wider vectors.", rich_help_panel=LIMITS)
    ] = no_result(limits.LIST_LENGTH)
    max_distinct: Annotated[int, Option(min=1, help="Refuse features with more values.", rich_help_panel=LIMITS)] = (
        no_result(limits.DISTINCT)
    )

    @property
    def limits(self) -> limits.Limits:
        """Return the limits that the user can set."""
        return limits.Limits(self.max_value_bytes, self.max_list_length, self.max_distinct)

    def id_in_log(self, side: SideName) -> str:
        """Name the column of the interactions that holds a side's ids."""
        return self.query_id if side == "query" else self.item_id

    def id_in_table(self, side: SideName) -> str:
        """Name the column of a side's table that holds its ids: as given, else as in the interactions."""
        own = self.queries_id if side == "query" else self.items_id
        return own or self.id_in_log(side)

    def id_flag(self, side: SideName) -> str:
        """Name the flag that sets `id_in_table`."""
        own = self.queries_id if side == "query" else self.items_id
        return f"--{TABLE_OF[side]}-id" if own else f"--{side}-id"

    def features_of(self, side: SideName) -> list[str]:
        """Return the declared features of a side, NAME=KIND[,OPTION=VALUE..]."""
        return (self.query_features if side == "query" else self.item_features) or []
