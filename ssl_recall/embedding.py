"""Embed a catalogue and its queries: encoded tables in, unit vectors out."""

import torch
from torch import Tensor

from ssl_recall.data.features import EncodedTable, bags_of
from ssl_recall.data.interactions import Interactions, history_bags

from .towers import TwoTower


@torch.no_grad()
def embed_items(model: TwoTower, items: EncodedTable, block: int = 8192) -> Tensor:
    """Embed a whole catalogue: -> (N, D) unit rows, float32."""
    model.eval()
    rows = torch.arange(items.rows, device=items.codes.device)
    return torch.cat([model.item(bags_of(items, part)) for part in rows.split(block)])


@torch.no_grad()
def embed_queries(
    model: TwoTower,
    queries: EncodedTable,
    log: Interactions | None,  # required with a history
    items: EncodedTable | None,  # required with a history
    history: int,
    rows: Tensor | None = None,
    block: int = 8192,
) -> Tensor:
    """Embed all queries, or the given rows, with their history at the end of the log: -> (Q, D) unit rows, float32."""
    model.eval()
    rows = torch.arange(queries.rows, device=queries.codes.device) if rows is None else rows
    vectors = []
    for part in rows.split(block):
        past = None
        if history:
            assert log is not None, "a history is read from the log"
            assert items is not None, "a history consists of item ids"
            past = history_bags(log.items, log.offsets[part], log.offsets[part + 1], history, items)
        vectors.append(model.query(bags_of(queries, part), past))
    return torch.cat(vectors)
