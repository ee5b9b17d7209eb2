"""The settings of `train`: defaults, bounds and help, declared once."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from typer import Option

from stages.options import no_result, recorded, values_of

MAIN, SSL, MODEL = "Main task", "Self-supervised task", "Model"
OPTIMISERS, SELECTION, MACHINE = "Optimisers", "Passes and selection", "Machine and checkpoints"


class SeedPer(StrEnum):
    """What shares one variant of views, hence one seed feature: the whole batch, or a single item."""

    BATCH = "batch"
    ITEM = "item"


class SelectOn(StrEnum):
    """The slice whose validation recall picks the epoch; balanced is the mean of head and tail."""

    BALANCED = "balanced"
    ALL = "all"
    TAIL = "tail"
    COLD = "cold"


class Precision(StrEnum):
    """Precision of the matrix products of towers and softmax in training; all other arithmetic is float32."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class ModelShape:
    """The settings that rebuild a model, stored in model.json."""

    embedding_width: int
    hidden: list[int]
    width: int
    history: int
    seed: int
    query_ids: bool = True  # a model of 0.2.0 has no such key


@dataclass(frozen=True)
class TrainSettings:
    """Every flag of `train` but the run folder's."""

    ssl: Annotated[
        bool,
        Option(help="Also train the self-supervised task; --no-ssl writes to RUN/no-ssl/.", rich_help_panel=SSL),
    ] = True
    ssl_weight: Annotated[
        float,
        Option(
            min=0.0,
            max=1000.0,
            help="Weight alpha in the mean loss of a step, L = L_main + alpha L_self.",
            rich_help_panel=SSL,
        ),
    ] = 0.1
    ssl_batch_size: Annotated[
        int,
        Option(min=2, help="Items per self-supervised step, drawn uniformly from the catalogue.", rich_help_panel=SSL),
    ] = 1024
    ssl_temperature: Annotated[
        float,
        Option(min=0.001, max=100.0, help="Temperature of the self-supervised softmax.", rich_help_panel=SSL),
    ] = 0.1
    ssl_seed_per: Annotated[
        SeedPer,
        Option(
            help="One variant of views for the whole batch, as in the paper, or one for each item.", rich_help_panel=SSL
        ),
    ] = SeedPer.BATCH
    ssl_warmup_steps: Annotated[
        int,
        Option(min=0, help="Steps of the self-supervised task alone before the first epoch.", rich_help_panel=SSL),
    ] = 400
    ssl_every: Annotated[
        int,
        Option(
            min=1,
            max=1000,
            help="Every n-th step has the self-supervised task, with n times its weight; 1: every step.",
            rich_help_panel=SSL,
        ),
    ] = 8
    ssl_neighbour_weight: Annotated[
        float,
        Option(
            min=0.0,
            max=1000.0,
            help="Weight of the loss between an item and its neighbour, relative to the loss between two views.",
            rich_help_panel=SSL,
        ),
    ] = 1.0
    temperature: Annotated[
        float,
        Option(min=0.001, max=100.0, help="Temperature of the in-batch softmax.", rich_help_panel=MAIN),
    ] = 0.05
    logq: Annotated[
        bool,
        Option(help="Subtract the log sampling probability of each candidate from its logits.", rich_help_panel=MAIN),
    ] = True
    batch_size: Annotated[
        int,
        Option(min=2, help="Interactions per step; their items are the in-batch negatives.", rich_help_panel=MAIN),
    ] = 1024
    further_negatives: Annotated[
        int,
        Option(
            min=0,
            max=2**24,
            help="Negatives per step drawn from the catalogue, in addition to the in-batch negatives.",
            rich_help_panel=MAIN,
        ),
    ] = 1024
    cold_negative_rate: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="How often a cold item is drawn as a further negative, relative to a warm one.",
            rich_help_panel=MAIN,
        ),
    ] = 0.002
    id_dropout: Annotated[
        float,
        Option(min=0.0, max=1.0, help="Share of the ids hidden in the main task.", rich_help_panel=MAIN),
    ] = 0.1
    feature_dropout: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Share of the candidates' features hidden in the main task, ids excepted.",
            rich_help_panel=MAIN,
        ),
    ] = 0.0
    history: Annotated[
        int,
        Option(
            min=0,
            help="Describe a query also by at most n items that it took, the target left out: those just before it, or "
            "random ones if the log has no times; 0: no history.",
            rich_help_panel=MODEL,
        ),
    ] = 0
    history_dropout: Annotated[
        float,
        Option(min=0.0, max=1.0, help="Share of the histories hidden in the main task.", rich_help_panel=MODEL),
    ] = 0.1
    query_id_dropout: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Share of the queries' ids hidden in the main task, if queries have a history; 1: the query tower has "
            "no ids.",
            rich_help_panel=MODEL,
        ),
    ] = 1.0
    embedding_width: Annotated[
        int, Option(min=1, help="Width of the embedding of a feature.", rich_help_panel=MODEL)
    ] = 32
    hidden: Annotated[
        list[int],
        Option(min=1, help="Width of a hidden layer; repeatable.", rich_help_panel=MODEL),
    ] = field(default_factory=lambda: [256])
    width: Annotated[int, Option(min=1, help="Width of the item and query vectors.", rich_help_panel=MODEL)] = 64
    learning_rate: Annotated[
        float,
        Option(
            min=1e-6,
            max=1000.0,
            help="Learning rate of AdamW, for all weights except the embeddings.",
            rich_help_panel=OPTIMISERS,
        ),
    ] = 0.001
    embedding_learning_rate: Annotated[
        float,
        Option(
            min=1e-6,
            max=1000.0,
            help="Learning rate of row-wise Adagrad, for the embeddings.",
            rich_help_panel=OPTIMISERS,
        ),
    ] = 0.1
    initial_accumulator: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Initial accumulator of row-wise Adagrad; a larger one slows rows with small gradients.",
            rich_help_panel=OPTIMISERS,
        ),
    ] = 1e-5
    average_decay: Annotated[
        float,
        Option(
            min=0.0,
            max=0.9999,
            help="Decay per step of the running average of all weights except the embeddings; 0: no average.",
            rich_help_panel=OPTIMISERS,
        ),
    ] = 0.99
    epochs: Annotated[
        int, Option(min=1, help="Maximum number of passes over the training interactions.", rich_help_panel=SELECTION)
    ] = 12
    patience: Annotated[
        int,
        Option(
            min=1, help="Stop after this many epochs without a better validation recall.", rich_help_panel=SELECTION
        ),
    ] = 3
    select_on: Annotated[
        SelectOn,
        Option(
            help="Slice whose validation recall picks the epoch; balanced: mean of head and tail.",
            rich_help_panel=SELECTION,
        ),
    ] = SelectOn.BALANCED
    validation_queries: Annotated[
        int,
        Option(min=1, help="Maximum number of queries in the validation after each epoch.", rich_help_panel=SELECTION),
    ] = 5000
    seed: Annotated[
        int,
        Option(min=0, max=2**62, help="Seed of the first weights and of all random draws.", rich_help_panel=SELECTION),
    ] = 1
    precision: Annotated[
        Precision,
        Option(
            help="Precision of the matrix products; auto: bfloat16 if it is clearly faster on this machine.",
            rich_help_panel=MACHINE,
        ),
    ] = Precision.AUTO
    device: Annotated[str, Option(help="Device: auto, cpu, cuda or cuda:N.", rich_help_panel=MACHINE)] = "auto"
    threads: Annotated[
        int,
        Option(
            min=1,
            max=1024,
            help="Processor threads; the number changes the last digits of the result.",
            rich_help_panel=MACHINE,
        ),
    ] = 1
    checkpoint_seconds: Annotated[
        float,
        Option(min=0.0, help="Seconds between checkpoints; 0: a checkpoint after every step.", rich_help_panel=MACHINE),
    ] = no_result(300.0)
    strict: Annotated[
        bool,
        Option(
            "--strict",
            help="Refuse to resume if the result would not be bit-exact to that of an uninterrupted training.",
            rich_help_panel=MACHINE,
        ),
    ] = no_result(False)

    @property
    def shape(self) -> ModelShape:
        """Return the settings that rebuild the model."""
        query_ids = not self.history or self.query_id_dropout < 1
        return ModelShape(self.embedding_width, self.hidden, self.width, self.history, self.seed, query_ids)


def used_values(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that this training uses."""
    return _without_unused(settings, values_of(settings))


def recorded_training(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings of a training for the manifest; an unused one cannot make it stale."""
    return _without_unused(settings, recorded(settings))


def _without_unused(settings: TrainSettings, values: dict[str, Any]) -> dict[str, Any]:
    """Leave out the names in `ssl_` without SSL, and the dropouts of a history without a history."""
    unused = {name for name in values if name.startswith("ssl_")} if not settings.ssl else set()
    unused |= set() if settings.history else {"history_dropout", "query_id_dropout"}
    return {name: value for name, value in values.items() if name not in unused}
