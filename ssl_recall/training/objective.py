"""The settings of the two losses."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SelfSupervision:
    """The settings of the self-supervised task (losses.self_supervised)."""

    weight: float  # alpha
    batch_size: int  # M
    temperature: float
    shared_seed: bool  # one variant of views, hence one seed feature, for the whole batch
    neighbour_weight: float = 0.0  # weight of the loss between item and neighbour; the loss between two views has 1
    warm_up: int = 0  # steps of this task alone before the first epoch
    every: int = 1  # every n-th step has this task, with n times its weight


@dataclass(frozen=True)
class Objective:
    """The settings of the main task (losses.in_batch_softmax) and of the self-supervised task, if there is one."""

    batch_size: int  # B
    temperature: float
    further_negatives: int  # U, in addition to the in-batch negatives
    id_dropout: float  # share of ids hidden
    history: int  # most items of a query's history, 0 for none
    ssl: SelfSupervision | None
    feature_dropout: float = 0.0  # share of the candidates' features hidden, except ids
    query_id_dropout: float | None = None  # share of the queries' ids hidden; None: `id_dropout`
    history_dropout: float = 0.0  # share of the histories hidden
    bf16: bool = False  # for the matrix products of towers and softmax
