from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl_recall.data.histories import POOL, Histories, averaged, before, hidden, others, so_far
from ssl_recall.data.interactions import Interactions, index_interactions
from ssl_recall.training import sampling

Event = tuple[int, int, int]  # query, time, item
logs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 4)), max_size=14).map(sorted)
few = settings(max_examples=60, deadline=None)


def log_of(events: list[Event], *, times: bool = True) -> Interactions:
    queries, when, items = (torch.tensor([event[i] for event in events], dtype=torch.int64) for i in range(3))
    return index_interactions(queries, items, 4, when if times else None)


def lists(histories: Histories) -> list[list[int]]:
    return [part.tolist() for part in histories.items.split(histories.lengths.tolist())]


def source(seed: int = 0) -> torch.Generator:
    return sampling.torch_generator(seed)


# --- with a clock ---


def test_a_history_worked_by_hand() -> None:
    """Query 0: item 4 at 1, item 2 at 1, item 3 at 5, item 0 at 6; query 1: item 1 at 7."""
    log = log_of([(0, 1, 4), (0, 1, 2), (0, 5, 3), (0, 6, 0), (1, 7, 1)])
    assert lists(before(log, torch.arange(5), 2)) == [[], [], [4, 2], [2, 3], []]
    assert lists(before(log, torch.tensor([3, 3, 0]), 9)) == [[4, 2, 3], [4, 2, 3], []]
    assert lists(so_far(log, torch.tensor([1, 0, 2]), 2)) == [[1], [3, 0], []]


@given(logs.filter(bool), st.integers(1, 4), st.data())
@few
def test_a_history_is_what_came_strictly_before(events: list[Event], size: int, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(events) - 1), min_size=1, max_size=8))
    expected = []
    for query, time, _ in (events[row] for row in rows):
        expected.append([item for q, t, item in events if q == query and t < time][-size:])
    assert lists(before(log_of(events), torch.tensor(rows), size)) == expected


@given(logs.filter(bool), st.data())
@few
def test_a_planted_future_event_changes_no_history(events: list[Event], data: st.DataObject) -> None:
    """F41: item 4 is planted at or after the event, so it must not be in the event's history."""
    event = data.draw(st.sampled_from(events))
    planted = sorted([*events, (event[0], data.draw(st.integers(event[1], 6)), 4)])

    def history(log: list[Event]) -> list[list[int]]:
        return lists(before(log_of(log), torch.tensor([log.index(event)]), 3))

    assert history(planted) == history(events)


def test_the_control_a_planted_earlier_event_changes_the_history() -> None:
    events = [(0, 3, 1), (0, 5, 2)]
    assert lists(before(log_of(events), torch.tensor([1]), 3)) == [[1]]
    assert lists(before(log_of([*events[:1], (0, 4, 4), *events[1:]]), torch.tensor([2]), 3)) == [[1, 4]]


# --- without a clock ---


def test_without_a_clock_a_history_is_everything_else_that_the_query_took() -> None:
    log = log_of([(0, 0, 4), (0, 0, 2), (0, 0, 3), (1, 0, 1)], times=False)
    found = lists(others(log, torch.tensor([1, 3, 0, 1]), 9, source()))
    assert [sorted(history) for history in found] == [[3, 4], [], [2, 3], [3, 4]]
    assert lists(so_far(log, torch.tensor([0, 1, 2]), 1)) == [[4, 2, 3], [1], []]  # all: there is no newest


@given(logs.filter(bool), st.integers(1, 4), st.integers(0, 9), st.data())
@few
def test_the_target_is_never_in_its_own_history(events: list[Event], size: int, seed: int, data: st.DataObject) -> None:
    events = [(query, 0, item) for query, _, item in events]
    rows = data.draw(st.lists(st.integers(0, len(events) - 1), min_size=1, max_size=8))
    found = lists(others(log_of(events, times=False), torch.tensor(rows), size, source(seed)))
    for row, history in zip(rows, found, strict=True):
        rest = [item for place, (query, _, item) in enumerate(events) if query == events[row][0] and place != row]
        assert all(history.count(item) <= rest.count(item) for item in history)
        assert min(size - 1, len(rest)) <= len(history) <= min(size, len(rest))


def test_each_other_item_is_as_likely_and_the_draw_depends_on_the_generator() -> None:
    log = log_of([(0, 0, item) for item in range(5)] * 1, times=False)
    rows = torch.zeros(1, dtype=torch.int64)
    drawn = torch.cat([others(log, rows, 2, source(seed)).items for seed in range(2000)])
    shares = torch.bincount(drawn, minlength=5) / len(drawn)
    assert shares[0] == 0
    torch.testing.assert_close(shares[1:], torch.full((4,), 0.25), atol=0.03, rtol=0)
    assert torch.equal(others(log, rows, 2, source(7)).items, others(log, rows, 2, source(7)).items)


def test_a_query_with_many_items_costs_no_more_than_a_part_of_them() -> None:
    """Of 100 items in a row, a sample of two comes from 32 neighbours."""
    log = log_of([(0, 0, item) for item in range(100)], times=False)
    spans = []
    for seed in range(50):
        first, second = sorted(others(log, torch.tensor([0]), 3, source(seed)).items.tolist()[:2])
        spans.append(min(second - first, 100 - second + first))
    assert max(spans) < 3 * POOL


# --- parts of histories ---


def test_hidden_histories_are_empty() -> None:
    histories = Histories(torch.tensor([5, 6, 7]), torch.tensor([2, 0, 1]))
    assert lists(hidden(histories, torch.tensor([True, True, False]))) == [[], [], [7]]
    assert lists(hidden(histories, torch.tensor([False, True, True]))) == [[5, 6], [], []]


def test_each_distinct_item_is_gathered_once_and_an_empty_history_is_the_unknown_item() -> None:
    found = averaged(Histories(torch.tensor([7, 3, 7]), torch.tensor([2, 0, 1])))
    assert found.distinct.tolist() == [3, 7]
    assert [part.tolist() for part in found.places.split(found.lengths.tolist())] == [[2, 1], [0], [2]]


@pytest.mark.parametrize("of", [lambda log: so_far(log, torch.zeros(0, dtype=torch.int64), 3)])
def test_no_query_has_no_history(of: Callable[[Interactions], Histories]) -> None:
    found = averaged(of(log_of([(0, 0, 1)])))
    assert all(len(part) == 0 for part in vars(found).values() if isinstance(part, Tensor))
