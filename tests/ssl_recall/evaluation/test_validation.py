import math

import pytest
import torch

from ssl_recall import towers
from ssl_recall.data.codes import Kind
from ssl_recall.data.features import EncodedTable
from ssl_recall.data.interactions import Interactions, index_interactions
from ssl_recall.embedding import embed_items, embed_queries
from ssl_recall.evaluation import metrics, validation

N, Q = 20, 6


def table_of(name: str, rows: int) -> EncodedTable:
    codes = torch.arange(2, rows + 2, dtype=torch.int32)
    return EncodedTable((name,), (Kind.ID,), (name,), codes, torch.arange(rows + 1), {})


ITEMS, QUERIES = table_of("item", N), table_of("query", Q)


def log_of(pairs: list[tuple[int, int]]) -> Interactions:
    queries, items = (torch.tensor([pair[n] for pair in sorted(pairs)], dtype=torch.int64) for n in range(2))
    return index_interactions(queries, items, Q)


def test_recall_is_a_full_sort_without_what_was_taken_in_training() -> None:
    vocabularies = {"item": N + 2, "query": Q + 2}
    model = towers.two_tower(
        ITEMS, QUERIES, vocabularies, embedding_width=4, hidden=[8], width=4, history=False, seed=1
    )
    log = log_of([(q, (3 * q + n) % N) for q in range(Q) for n in range(4)])
    pairs = [(q, (3 * q + n + 7) % N) for q in range(0, Q, 2) for n in range(3)]
    slices = metrics.slices(torch.bincount(log.items, minlength=N), 0.3)
    held = log_of(pairs)
    sample = validation.sample(held.queries, held.items, slices, 100, torch.Generator())
    found = validation.recall(model, ITEMS, QUERIES, log, sample, 0, 5)

    items, queries = embed_items(model, ITEMS), embed_queries(model, QUERIES)
    hits = []
    for query, item in zip(held.queries.tolist(), held.items.tolist(), strict=True):
        taken = log.items[log.offsets[query] : log.offsets[query + 1]].tolist()
        order = [i for i in torch.argsort(queries[query] @ items.T, descending=True).tolist() if i not in taken]
        hits.append(item in order[:5])
    assert found["recall"] == pytest.approx(sum(hits) / len(hits))
    for name in ("head", "tail", "cold"):
        inside = [hit for hit, item in zip(hits, held.items.tolist(), strict=True) if slices[name][item]]
        expected = sum(inside) / len(inside) if inside else math.nan
        assert found[f"recall_{name}"] == pytest.approx(expected, nan_ok=True)
    assert found["recall_balanced"] == pytest.approx((found["recall_head"] + found["recall_tail"]) / 2)


def test_a_sample_keeps_queries_whole_and_never_more_than_asked() -> None:
    held = log_of([(q, n) for q in range(Q) for n in range(q + 1)])
    everything = {"all": torch.ones(N, dtype=torch.bool)}
    sample = validation.sample(held.queries, held.items, everything, 3, torch.Generator().manual_seed(1))
    kept = sample.queries.unique().tolist()
    assert len(kept) == 3
    assert torch.equal(sample.items, held.items[torch.isin(held.queries, torch.tensor(kept))])
    again = validation.sample(held.queries, held.items, everything, 3, torch.Generator().manual_seed(1))
    assert torch.equal(again.queries, sample.queries)
