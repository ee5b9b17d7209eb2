"""The two losses and their sum; everything is nats, float32, and a mean over the rows of a batch.

Both raise ValueError for a temperature that is not a positive number.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .features import ranges


class NonFiniteError(ArithmeticError):
    """A loss is NaN or infinite."""


def in_batch_softmax(
    queries: Tensor,  # (B, D) unit rows
    items: Tensor,  # (C, D) unit rows, C >= B; row b is the positive of query b, those from B on are further negatives
    log_p: Tensor,  # (C,) float32, log of the probability that the item stands among the C, zeros for no correction
    no_negative: Tensor,  # (B, C) bool, True where column j is no negative of query b; the diagonal is ignored
    temperature: float,
) -> Tensor:  # () mean over the batch, nats
    """Cross-entropy of each query against its own batch, corrected for popularity (Yi et al., RecSys 2019).

    Popular items turn up as negatives too often; taking log p off their logits, after the temperature, undoes it.
    Without further negatives (C = B) p is an item's share of the training interactions; with them, of the mixture
    (Yang et al., WWW 2020; `mixture`). Serving uses the plain cosine.
    """
    return _softmax_loss(_cosines(queries, items, temperature) - log_p.float(), no_negative)


def self_supervised(
    view_a: Tensor,  # (M, D) unit rows
    view_b: Tensor,  # (M, D) unit rows; row m is the other view of the same item
    no_negative: Tensor,  # (M, M) bool, True where column j is the same item as row m; the diagonal is ignored
    temperature: float,
) -> Tensor:  # () mean over the batch, nats
    """Cross-entropy of each view against the other views of the batch (Yao et al., CIKM 2021, eq. 1)."""
    return _softmax_loss(_cosines(view_a, view_b, temperature), no_negative)


def mixture(
    log_p: Tensor,  # (N,) log share of the training interactions
    drawn: Tensor,  # (N,) float, probability that one draw of a further negative is this item
    batch: int,  # B positives, drawn from the log
    extra: int,  # U further negatives
) -> Tensor:  # (N,) log of the mixture
    """log q_j = log [ (B p_j + U u_j) / (B + U) ]: how often item j stands among the B + U candidates of a step."""
    return torch.log((batch * log_p.double().exp() + extra * drawn.double()) / (batch + extra)).float()


def joint(main: Tensor, ssl: Tensor, ssl_weight: float) -> Tensor:
    """L = L_main + alpha * L_self: two means, so that alpha does not depend on either batch size."""
    return main + ssl_weight * ssl


def _cosines(rows: Tensor, columns: Tensor, temperature: float) -> Tensor:
    """Cosines over the temperature, in float32 also where the towers run in bf16 (it would round log p away)."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be a positive number, is {temperature}")
    with torch.autocast(rows.device.type, enabled=False):
        return (rows.float() @ columns.float().T) / temperature


def _softmax_loss(logits: Tensor, no_negative: Tensor) -> Tensor:
    """Cross-entropy with the diagonal as truth; a masked column's probability is exactly 0."""
    own = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(no_negative & ~own, float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def same_rows(ids: Tensor) -> Tensor:
    """Mark pairs of rows with one id: (M,) -> (M, M) bool."""
    return ids[:, None] == ids[None, :]


def known_positives(
    query_ids: Tensor,  # (B,) int64
    item_ids: Tensor,  # (C,) int64
    offsets: Tensor,  # (Q + 1,) int64: query q took taken[offsets[q] : offsets[q + 1]]
    taken: Tensor,  # (E,) int32 or int64 item ids
    column_of: Tensor,  # (N,) int64 scratch, -1 everywhere; left as it was found
) -> Tensor:  # (B, C) bool
    """Mark the columns whose item the row's query is known to have taken, accidental hits among them.

    Costs the queries' histories plus B x C bits; no B x history matrix.
    """
    rows, columns = (torch.arange(len(ids), device=ids.device) for ids in (query_ids, item_ids))
    column_of[item_ids] = columns  # of an item that stands in several columns any one will do
    leader = column_of[item_ids]
    starts, lengths = offsets[query_ids], offsets[query_ids + 1] - offsets[query_ids]
    owner = torch.repeat_interleave(rows, lengths)
    column = column_of[taken[ranges(starts, lengths)].long()]
    found = column >= 0
    marked = torch.zeros(len(rows), len(columns), dtype=torch.bool, device=query_ids.device)
    marked[owner[found], column[found]] = True
    column_of[item_ids] = -1
    return marked[:, leader]
