"""Draw the pairs of corrupted views that the self-supervised task compares."""

from stages.learning import memory_needs, training_inputs
from stages.learning.drawn_views import draw_views, hideable_features
from stages.learning.view_settings import ViewSettings, variants_of
from stages.run_folder import layout
from stages.run_folder.memory_floor import Need

from .options import StageFolder, recorded

READS = (layout.ITEMS, layout.FEATURES, layout.MUTUAL_INFORMATION)
WRITES = (layout.VIEWS,)


def build_views(folder: StageFolder, settings: ViewSettings) -> None:
    """Draw pairs of views of every item: a transform hides whole features, then value dropout drops single values.

    Reads items, features and mutual_information. Writes views.parquet: per item and variant two masks and a neighbour.
    Bit j of a mask (least significant first) is set if the view keeps the item's j-th value. The neighbour is another
    item with which the item shares a rare value. With --transform correlated, a variant has one seed feature.
    """
    job = folder.job(
        "build-views",
        recorded(settings),
        reads=READS,
        writes=WRITES,
        need=Need(memory_needs.of_catalogue),
    )
    with job:
        if job.up_to_date:
            return
        items = training_inputs.encoded_side(job, layout.ITEMS, job.read(layout.FEATURES).filter(side="item"))
        job.write_parts(layout.VIEWS, draw_views(job, items, settings))
        features, variants = len(hideable_features(items, settings.id_view)), variants_of(settings, items.rows)
        job.done(f"{items.rows:,} items, {features} features, {variants} pairs of views, {settings.transform}")
