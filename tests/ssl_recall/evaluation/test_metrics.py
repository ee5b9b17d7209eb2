import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_recall.evaluation import metrics

few = settings(max_examples=60, deadline=None)
Lists = tuple[list[list[int]], list[set[int]]]


@st.composite
def rankings(draw: st.DrawFn) -> Lists:
    """Draw lists of six of ten items, and one to four held-out items per query."""
    queries = draw(st.integers(1, 5))
    lists = [draw(st.permutations(range(10)))[:6] for _ in range(queries)]
    truth = [draw(st.sets(st.integers(0, 9), min_size=1, max_size=4)) for _ in range(queries)]
    return lists, truth


def found_of(lists: list[list[int]], truth: list[set[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.tensor([q for q, items in enumerate(truth) for _ in items])
    items = torch.tensor([item for relevant in truth for item in sorted(relevant)])
    return metrics.hits(torch.tensor(lists), rows, items), rows


def test_a_list_worked_by_hand() -> None:
    """Held out: 7 and 9; list: 7, 1, 9. Recall 1, AP (1/1 + 2/3) / 2, DCG 1 + 1/2 over 1 + 1/log2(3)."""
    found, rows = found_of([[7, 1, 9]], [{7, 9}])
    _, values = metrics.per_query(found, rows, 3)
    assert values["recall_per_query"].item() == 1
    assert values["map"].item() == pytest.approx((1 + 2 / 3) / 2)
    assert values["ndcg"].item() == pytest.approx(1.5 / (1 + 1 / math.log2(3)))
    assert metrics.pair_recall(found, 1).tolist() == [1, 0]
    assert metrics.pair_recall(found, 3).tolist() == [1, 1]


@given(rankings(), st.integers(1, 6))
@few
def test_per_query_figures_are_their_definitions(case: Lists, k: int) -> None:
    lists, truth = case
    found, rows = found_of(lists, truth)
    queries, values = metrics.per_query(found, rows, k)
    assert queries.tolist() == list(range(len(truth)))
    for q, relevant in enumerate(truth):
        ranks = [rank for rank, item in enumerate(lists[q][:k], 1) if item in relevant]
        ideal = math.fsum(1 / math.log2(rank + 1) for rank in range(1, min(len(relevant), k) + 1))
        precision = [(n + 1) / rank for n, rank in enumerate(ranks)]
        assert values["recall_per_query"][q].item() == pytest.approx(len(ranks) / len(relevant))
        assert values["map"][q].item() == pytest.approx(math.fsum(precision) / len(relevant))
        assert values["ndcg"][q].item() == pytest.approx(math.fsum(1 / math.log2(r + 1) for r in ranks) / ideal)
    hits = [item in lists[q][:k] for q, relevant in enumerate(truth) for item in sorted(relevant)]
    assert metrics.pair_recall(found, k).tolist() == hits


def test_the_figures_are_those_of_ir_measures() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ir = pytest.importorskip("ir_measures")
    rng = np.random.default_rng(0)
    lists = [rng.permutation(40)[:10].tolist() for _ in range(30)]
    truth = [set(rng.integers(0, 40, rng.integers(1, 15)).tolist()) for _ in range(30)]
    run = [
        ir.ScoredDoc(str(q), str(item), -float(rank)) for q, row in enumerate(lists) for rank, item in enumerate(row)
    ]
    qrels = [ir.Qrel(str(q), str(item), 1) for q, relevant in enumerate(truth) for item in relevant]
    found, rows = found_of(lists, truth)
    for k in (1, 5, 10):
        _, values = metrics.per_query(found, rows, k)
        theirs = ir.calc_aggregate([ir.R @ k, ir.AP @ k, ir.nDCG @ k], qrels, run)
        assert values["recall_per_query"].mean().item() == pytest.approx(theirs[ir.R @ k])
        assert values["map"].mean().item() == pytest.approx(theirs[ir.AP @ k])
        assert values["ndcg"].mean().item() == pytest.approx(theirs[ir.nDCG @ k])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.floats(0.05, 1.0))
@few
def test_head_and_tail_share_out_the_catalogue_and_no_tail_item_is_more_taken(counts: list[int], share: float) -> None:
    found = metrics.slices(torch.tensor(counts), share)
    head = [i for i, inside in enumerate(found["head"].tolist()) if inside]
    assert len(head) == min(math.ceil(share * len(counts)), sum(count > 0 for count in counts))
    assert (found["head"] ^ found["tail"]).all()
    assert found["all"].all()
    assert ((found["warm-tail"] ^ found["cold"]) == found["tail"]).all()
    assert found["cold"].tolist() == [count == 0 for count in counts]
    assert min((counts[i] for i in head), default=99) >= max(
        (c for i, c in enumerate(counts) if i not in head), default=0
    )


def test_the_tail_holds_the_cold() -> None:
    found = metrics.slices(torch.tensor([5, 0, 1, 0, 0, 0, 0, 0, 0, 0]))
    assert found["head"].nonzero().flatten().tolist() == [0]
    assert (found["tail"] & found["cold"]).sum() == 8


def test_coverage_and_popularity_look_at_the_first_k_and_pass_over_empty_places() -> None:
    lists = torch.tensor([[0, 1, 2], [0, -1, -1]])
    assert metrics.coverage(lists, 2, 8) == 2 / 8
    assert metrics.coverage(lists, 3, 8) == 3 / 8
    assert metrics.mean_popularity(lists, 2, torch.tensor([10, 4, 1])) == pytest.approx((10 + 4 + 10) / 3)


def test_the_bootstrap_is_a_loop_over_resampled_queries() -> None:
    source = torch.Generator().manual_seed(3)
    sums = torch.rand(7, 2, generator=source, dtype=torch.float64)
    trials = torch.randint(1, 4, (7, 2), generator=source).double()
    ratios_of_draws = metrics.bootstrap_ratios(sums, trials, [0, 1], 200, torch.Generator().manual_seed(5))
    low, high = metrics.percentile_intervals(ratios_of_draws)
    again, ratios = torch.Generator().manual_seed(5), []
    for part in torch.arange(200).split(32):
        for drawn in torch.randint(7, (len(part), 7), generator=again):
            ratios.append((sums[drawn].sum(0) / trials[drawn].sum(0)).tolist())
    expected = np.quantile(np.array(ratios), [0.025, 0.975], axis=0)
    np.testing.assert_allclose(torch.stack([low, high]).numpy(), expected)


def test_an_interval_covers_a_known_rate_and_a_paired_difference_is_the_narrower_one() -> None:
    source = torch.Generator().manual_seed(1)
    hard = torch.rand(2000, generator=source)
    one, other = (hard < 0.4).double(), (hard < 0.43).double()  # the second model also recalls slightly harder pairs
    columns, ones = torch.stack([one, other], 1), torch.ones(2000, 1, dtype=torch.float64)
    ratios = metrics.bootstrap_ratios(columns, ones, [0, 0], 500, source)
    low, high = metrics.percentile_intervals(torch.cat([ratios, ratios[:, 1:] - ratios[:, :1]], 1))
    assert low[0] < 0.4 < high[0]
    assert low[2] > 0
    assert (high - low)[2] < (high - low)[1] / 2


@given(rankings())
@few
def test_a_rank_is_the_place_in_the_list_and_0_outside_it(case: Lists) -> None:
    lists, truth = case
    rows = torch.tensor([q for q, items in enumerate(truth) for _ in items])
    items = torch.tensor([item for relevant in truth for item in sorted(relevant)])
    expected = [
        lists[q].index(i) + 1 if i in lists[q] else 0 for q, i in zip(rows.tolist(), items.tolist(), strict=True)
    ]
    assert metrics.ranks(torch.tensor(lists), rows, items).tolist() == expected


def test_ranks_are_the_same_a_few_pairs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lists, rows, items = (
        torch.tensor([[3, 1, 2], [0, 4, 1]]),
        torch.tensor([0, 0, 1, 1, 1]),
        torch.tensor([2, 3, 9, 4, 1]),
    )
    expected = metrics.ranks(lists, rows, items)
    assert expected.tolist() == [3, 1, 0, 2, 3]
    monkeypatch.setattr(metrics, "PAIRS", 2)
    assert metrics.ranks(lists, rows, items).equal(expected)


def test_a_slice_without_pairs_has_no_interval() -> None:
    nothing = torch.zeros(3, 1).double()
    low, high = metrics.percentile_intervals(metrics.bootstrap_ratios(nothing, nothing, [0], 20, torch.Generator()))
    assert math.isnan(low.item())
    assert math.isnan(high.item())
