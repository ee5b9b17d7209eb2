"""The two losses and their sum; everything is nats, float32, and a mean over the rows of a batch.

Both losses raise ValueError for a temperature that is not a positive number.
"""

import torch
from torch import Tensor

from ssl_recall.kernels.softmax import Pairs, softmax_loss


class NonFiniteLossError(ArithmeticError):
    """A loss is NaN or infinite."""


def in_batch_softmax(
    queries: Tensor,  # (B, D) unit rows
    items: Tensor,  # (C, D) unit rows, the step's candidates: the batch's items and further negatives
    own: Tensor,  # (B,) int64, the row of `items` that is query b's positive
    log_p: Tensor,  # (C,) float32, log of the probability that a candidate is this item, zeros for no correction
    times: Tensor,  # (C,) float32, number of the step's draws that are this item; 0 for a padding row
    known: Pairs,  # (query, item) cells that are no negatives: the query took the item; may include its positive
    temperature: float,
) -> Tensor:  # () mean over the batch, nats
    """Cross-entropy of each query against the items of its batch, corrected for popularity (Yi et al., RecSys 2019).

        -log [ e^s_b+ / (e^s_b+ + sum over the negatives j of times_j e^s_bj) ],   s = cosine / temperature - log p

    Popular items turn up as negatives too often; taking log p off their logits, after the temperature, undoes it.
    Without further negatives p is an item's share of the training interactions; with them, of the mixture (Yang et al.,
    WWW 2020; `mixture`). Serving uses the plain cosine.
    """
    return softmax_loss(queries, items, own, times.log() - log_p, -log_p.index_select(0, own), known, temperature)


def self_supervised(
    view_a: Tensor,  # (M, D) unit rows
    view_b: Tensor,  # (M, D) unit rows; row m is the other view of the same item
    same: Pairs,  # (row, row) cells of one item, which are no negatives of each other
    temperature: float,
) -> Tensor:  # () mean over the batch, nats
    """Cross-entropy of each view against the other views of the batch (Yao et al., CIKM 2021, eq. 1)."""
    own = torch.arange(len(view_a), device=view_a.device)
    return softmax_loss(view_a, view_b, own, None, None, same, temperature)


def mixture(
    log_p: Tensor,  # (N,) log share p of the training interactions
    drawn: Tensor,  # (N,) float, probability u that one draw of a further negative is this item
    batch: int,  # B positives, drawn from the log
    extra: int,  # U further negatives
) -> Tensor:  # (N,) log of the mixture
    """log q_j = log [ (B p_j + U u_j) / (B + U) ]: expected share of item j among the B + U candidates of a step.

    >>> p, u = torch.tensor([0.75, 0.25]), torch.tensor([0.0, 1.0])
    >>> mixture(p.log(), u, batch=2, extra=2).exp()  # (2 * 0.75 + 0) / 4, (2 * 0.25 + 2) / 4
    tensor([0.3750, 0.6250])
    """
    return torch.log((batch * log_p.double().exp() + extra * drawn.double()) / (batch + extra)).float()


def joint(main: Tensor, ssl: Tensor, ssl_weight: float) -> Tensor:
    """L = L_main + alpha * L_self: two means, so that alpha does not depend on either batch size."""
    return main + ssl_weight * ssl
