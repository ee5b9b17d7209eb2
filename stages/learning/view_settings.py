"""The settings of `build-views`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from typer import Option

VARIANTS = 32  # pairs of views per item (docs/decisions)
VARIANTS_OF_MANY = 8  # for a catalogue of more than MANY_ITEMS, for which 32 would take gigabytes
MANY_ITEMS = 1_000_000
STAGE_1, DRAWS = "Hidden features", "Draws"


class Transform(StrEnum):
    """The rule that hides whole features."""

    RANDOM_MASK = "random-mask"
    DROPOUT = "dropout"
    COMPLEMENTARY = "complementary"
    CORRELATED = "correlated"


class Measure(StrEnum):
    """The column of mutual_information.parquet that ranks how similar two features are."""

    MI = "mi"
    MI_CORRECTED = "mi_corrected"
    MI_NORMALISED = "mi_normalised"


class IdView(StrEnum):
    """The treatment of the item id in the two views."""

    FEATURE = "feature"
    RANDOM = "random"
    HIDDEN = "hidden"
    KEPT = "kept"


@dataclass(frozen=True)
class ViewSettings:
    """Every flag of `build-views` but the run folder's."""

    transform: Annotated[
        Transform,
        Option(
            help="random-mask: each view hides features at random; dropout: no feature is hidden; complementary: each "
            "view keeps one half of the features; correlated: one view hides a seed feature and the features most "
            "similar to it, the other view hides the rest.",
            rich_help_panel=STAGE_1,
        ),
    ] = Transform.RANDOM_MASK
    value_dropout: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Share of the values of multi-valued features that is dropped; 0: none.",
            rich_help_panel=STAGE_1,
        ),
    ] = 0.3
    mask_rate: Annotated[
        float, Option(min=0.0, max=1.0, help="Share of the features that random-mask hides.", rich_help_panel=STAGE_1)
    ] = 0.5
    variants: Annotated[
        int | None,
        Option(
            min=1,
            max=1000,
            help="Pairs of views per item. [default: 32; 8 above 1,000,000 items]",
            rich_help_panel=DRAWS,
        ),
    ] = None
    measure: Annotated[
        Measure,
        Option(help="Measure of similarity between features, for correlated.", rich_help_panel=STAGE_1),
    ] = Measure.MI_NORMALISED
    id_view: Annotated[
        IdView,
        Option(
            help="Treatment of the item id under every transform. feature: like any other feature; random: kept in one "
            "of the two views, drawn by a coin; hidden: hidden in both; kept: kept in both.",
            rich_help_panel=STAGE_1,
        ),
    ] = IdView.RANDOM
    seed: Annotated[
        int,
        Option(
            min=0,
            max=2**62,
            help="Seed of all random draws; the draws of a variant do not depend on --variants.",
            rich_help_panel=DRAWS,
        ),
    ] = 1


def variants_of(settings: ViewSettings, items: int) -> int:
    """Return the number of pairs of views per item: the setting, or the default for the size of the catalogue."""
    if settings.variants is not None:
        return settings.variants
    return VARIANTS if items <= MANY_ITEMS else VARIANTS_OF_MANY
