"""Embed a catalogue and its queries: encoded tables in, unit vectors out."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_recall.data.features import EncodedTable, bags_of, join, nothing_known
from ssl_recall.data.histories import Histories, averaged

from .towers import TwoTower

BLOCK = 8192  # rows to embed at a time
WITH_HISTORY = 1024  # queries to embed at a time, if each has a history


@torch.no_grad()
def embed_items(model: TwoTower, items: EncodedTable, block: int = BLOCK) -> Tensor:
    """Embed a whole catalogue: -> (N, D) unit rows, float32."""
    model.eval()
    rows = torch.arange(items.rows, device=items.codes.device)
    return torch.cat([model.item(bags_of(items, part)) for part in rows.split(block)])


@torch.no_grad()
def embed_queries(
    model: TwoTower,
    queries: EncodedTable,
    rows: Tensor | None = None,  # (Q,) int64 rows of `queries`; None for all
    histories: Histories | None = None,  # of these Q queries; required if the model has a history
    items: EncodedTable | None = None,  # required if the model has a history
) -> Tensor:
    """Embed queries, all or the given rows, with what each took: -> (Q, D) unit rows, float32."""
    model.eval()
    rows = torch.arange(queries.rows, device=queries.codes.device) if rows is None else rows
    if histories is None:
        return torch.cat([model.query(bags_of(queries, part)) for part in rows.split(BLOCK)])
    assert items is not None, "a history consists of items"
    vectors = []
    lengths = histories.lengths.split(WITH_HISTORY)
    taken = histories.items.split([int(part.sum()) for part in lengths])
    for part, *own in zip(rows.split(WITH_HISTORY), taken, lengths, strict=True):
        vectors.append(model.query(bags_of(queries, part), average_features(model, Histories(*own), items)))
    return torch.cat(vectors)


def average_features(model: TwoTower, histories: Histories, items: EncodedTable) -> Tensor:
    """Average the features of the items of B histories: -> (B, K, E)."""
    found = averaged(histories)
    bags = join([nothing_known(items, 1), bags_of(items, found.distinct)])
    features = model.item.features(model.embeddings(bags, model.item.starts), bags)
    starts = found.lengths.cumsum(0) - found.lengths
    return F.embedding_bag(found.places, features.flatten(1), starts, mode="mean").view(-1, *features.shape[1:])
