"""From the settings of `train` to the objective of a training step."""

from typing import TYPE_CHECKING

from .settings import SeedPer, TrainSettings

if TYPE_CHECKING:
    from ssl_recall.training.objective import Objective


def objective_of(settings: TrainSettings, *, bf16: bool) -> "Objective":
    """Collect the settings that a training step depends on."""
    from ssl_recall.training.objective import Objective, SelfSupervision

    ssl = None
    if settings.ssl:
        ssl = SelfSupervision(
            weight=settings.ssl_weight,
            batch_size=settings.ssl_batch_size,
            temperature=settings.ssl_temperature,
            shared_seed=settings.ssl_seed_per == SeedPer.BATCH,
            neighbour_weight=settings.ssl_neighbour_weight,
            warm_up=settings.ssl_warmup_steps,
            every=settings.ssl_every,
        )
    return Objective(
        batch_size=settings.batch_size,
        temperature=settings.temperature,
        further_negatives=settings.further_negatives,
        id_dropout=settings.id_dropout,
        feature_dropout=settings.feature_dropout,
        history=settings.history,
        query_id_dropout=settings.query_id_dropout if settings.history else None,
        history_dropout=settings.history_dropout,
        bf16=bf16,
        ssl=ssl,
    )
