"""Views of items: the values that the four transforms and value dropout hide, and the packed bits."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ssl_recall import views
from ssl_recall.data.codes import Kind
from ssl_recall.data.features import EncodedTable
from ssl_recall.data.packed_views import pack_mask, pack_views, unpack_masks


def table_of(lengths: NDArray[np.int64], kinds: tuple[Kind, ...]) -> EncodedTable:
    """Build a table whose bag (n, k) has lengths[n, k] values; every code is 2."""
    offsets = torch.tensor(np.concatenate([[0], np.cumsum(lengths)]), dtype=torch.int64)
    names = tuple(f"f{number}" for number in range(len(kinds)))
    return EncodedTable(names, kinds, names, torch.full((int(offsets[-1]),), 2, dtype=torch.int32), offsets, {})


def frame_of(*variants: tuple[pl.Series, pl.Series]) -> pl.DataFrame:
    return pl.concat(
        pl.DataFrame({"keep_a": a, "keep_b": b}).with_columns(
            variant=pl.lit(number, pl.Int16), neighbour_index=pl.lit(None, pl.Int32)
        )
        for number, (a, b) in enumerate(variants)
    )


def test_correlated_hides_the_seed_and_its_half_in_one_view_and_the_rest_in_the_other() -> None:
    # five features; feature 2 is most like 4, then 0, then 1, then 3
    similarity = np.eye(5)
    similarity[2] = [0.6, 0.3, 1.0, 0.1, 0.9]
    keep_a, keep_b = views.correlated(similarity, 2, items=3)

    assert keep_a.tolist() == [[False, True, False, True, False]] * 3
    assert keep_b.tolist() == [[True, False, True, False, True]] * 3


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.data())
def test_correlated_leaves_out_no_feature_more_like_the_seed_than_one_it_takes(k: int, data: st.DataObject) -> None:
    similarity = np.array(
        data.draw(st.lists(st.lists(st.floats(-1, 1), min_size=k, max_size=k), min_size=k, max_size=k))
    )
    seed = data.draw(st.integers(0, k - 1))
    keep_a, keep_b = views.correlated(similarity, seed, items=2)
    hidden = [feature for feature in range(k) if not keep_a[0, feature]]
    left = [feature for feature in range(k) if keep_a[0, feature]]

    assert seed in hidden
    assert len(hidden) == 1 + min(k // 2, k - 1)
    assert (keep_a ^ keep_b).all()
    for taken in set(hidden) - {seed}:
        assert all((similarity[seed, taken], -taken) > (similarity[seed, other], -other) for other in left)


def test_of_features_as_like_the_seed_as_each_other_the_first_are_taken() -> None:
    similarity = np.tile(np.arange(41) % 2.0, (41, 1))  # odd features are equally similar, more than even ones
    keep_a, _ = views.correlated(similarity, 7, items=1)
    assert np.flatnonzero(~keep_a[0]).tolist() == [0, *range(1, 41, 2)]


def test_a_similarity_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        views.correlated(np.array([[1.0, np.nan], [np.nan, 1.0]]), 0, items=1)


def test_seed_features_come_once_each_before_any_comes_again() -> None:
    drawn = [views.seed_feature(3, variant, features=5) for variant in range(15)]
    assert [sorted(drawn[start : start + 5]) for start in (0, 5, 10)] == [list(range(5))] * 3
    assert len({tuple(drawn[start : start + 5]) for start in (0, 5, 10)}) > 1
    first = np.bincount([views.seed_feature(seed, 0, features=5) for seed in range(500)], minlength=5)
    assert (abs(first - 100) < 45).all()  # five standard deviations


@pytest.mark.parametrize("k", [0, 1, 2, 5, 8])
def test_complementary_halves_partition_the_features_of_every_item(k: int) -> None:
    keep_a, keep_b = views.complementary(views.view_generator(1, 0), 200, k)
    assert (keep_a ^ keep_b).all()
    assert (keep_a.sum(1) == k // 2).all()


def test_complementary_splits_every_item_anew_and_without_favour() -> None:
    keep_a, _ = views.complementary(views.view_generator(1, 0), 6000, 4)
    splits, counts = np.unique(keep_a, axis=0, return_counts=True)
    assert len(splits) == 6
    assert (abs(counts - 1000) < 150).all()


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_random_masks_hide_at_their_rate_and_each_view_on_its_own(rate: float) -> None:
    keep_a, keep_b = views.random_mask(views.view_generator(1, 0), 4000, 5, rate)
    for hidden, expected in ((~keep_a, rate), (~keep_b, rate), (~keep_a & ~keep_b, rate * rate)):
        assert hidden.mean() == pytest.approx(expected, abs=0.017)  # five standard deviations at 0.3


def test_dropout_alone_hides_no_feature() -> None:
    assert all(keep.all() for keep in views.nothing_hidden(3, 4))


def test_a_coin_keeps_a_feature_in_exactly_one_view() -> None:
    keep_a, keep_b = views.by_coin(views.view_generator(1, 0), 1000)
    assert (keep_a ^ keep_b).all()
    assert keep_a.mean() == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_value_dropout_takes_only_values_of_multi_valued_features_at_its_rate(rate: float) -> None:
    kinds = (Kind.ID, Kind.MULTI_VALUED, Kind.CATEGORICAL, Kind.NUMERIC, Kind.DENSE)
    lengths = np.tile([1, 4, 1, 1, 1], (2000, 1))
    keep = views.nothing_hidden(2000, 5)
    masks = views.drop_values(views.view_generator(1, 0), keep, table_of(lengths, kinds), rate)

    per_item = [mask.reshape(2000, 8) for mask in masks]
    for mask in per_item:
        assert mask[:, [0, 5, 6, 7]].all()
        assert (~mask[:, 1:5]).mean() == pytest.approx(rate, abs=0.026)
    both = ~per_item[0][:, 1:5] & ~per_item[1][:, 1:5]
    assert both.mean() == pytest.approx(rate * rate, abs=0.017)


def test_a_hidden_feature_hides_all_its_values_and_no_other() -> None:
    lengths = np.array([[1, 3, 1], [1, 1, 1]])
    kinds = (Kind.CATEGORICAL, Kind.MULTI_VALUED, Kind.CATEGORICAL)
    keep = np.array([[True, False, True], [False, True, False]])
    kept_a, kept_b = views.drop_values(views.view_generator(1, 0), (keep, ~keep), table_of(lengths, kinds), 0.0)

    assert kept_a.tolist() == [True, False, False, False, True, False, True, False]
    assert (kept_a ^ kept_b).all()


def test_a_variant_is_drawn_alike_whatever_other_variants_there_are() -> None:
    def drawn(variant: int) -> bytes:
        return views.random_mask(views.view_generator(7, variant), 50, 6, 0.5)[0].tobytes()

    alone = drawn(3)
    assert [drawn(variant) for variant in range(5)][3] == alone
    assert len({drawn(variant) for variant in range(5)}) == 5
    blocks = {views.view_generator(7, variant, block).integers(2**62) for variant in range(5) for block in range(5)}
    of_seed_features = {np.random.default_rng([7, cycle, 1]).integers(2**62) for cycle in range(5)}
    assert len(blocks | of_seed_features) == 30
    assert views.random_mask(views.view_generator(8, 3), 50, 6, 0.5)[0].tobytes() != alone


def test_bit_j_of_an_item_is_its_jth_value_least_significant_first() -> None:
    # item 0 has 3 values, item 1 has 9: bits 1 and 8 of its two bytes are set
    table = table_of(np.array([[1, 2], [1, 8]]), (Kind.CATEGORICAL, Kind.MULTI_VALUED))
    keep = np.zeros(12, bool)
    keep[[0, 2, 3 + 1, 3 + 8]] = True
    assert pack_mask(keep, table.offsets, 2).to_list() == [bytes([0b101]), bytes([0b10, 0b1])]


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
def test_bits_come_back_as_they_went(data: st.DataObject, n: int, k: int, variants: int) -> None:
    lengths = np.array(data.draw(st.lists(st.integers(1, 9), min_size=n * k, max_size=n * k)))
    offsets = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64)
    values = int(offsets[-1])
    seed = data.draw(st.integers(0, 2**32 - 1))
    keep = np.random.default_rng(seed).random((2, variants, values)) < 0.5
    packed = [(pack_mask(a, offsets, k), pack_mask(b, offsets, k)) for a, b in zip(*keep, strict=True)]
    keep_a, keep_b = unpack_masks(frame_of(*packed), offsets, k)

    assert np.array_equal(np.stack([keep_a.numpy(), keep_b.numpy()]), keep)
    assert keep_a.dtype == torch.bool
    assert all(
        len(mask) == -(-size // 8) for mask, size in zip(packed[0][0], lengths.reshape(n, k).sum(1), strict=True)
    )


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
def test_stored_views_are_looked_up_value_by_value(data: st.DataObject, n: int, k: int, variants: int) -> None:
    lengths = np.array(data.draw(st.lists(st.integers(1, 9), min_size=n * k, max_size=n * k)))
    offsets = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64)
    keep = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).random((2, variants, int(offsets[-1]))) < 0.5
    frame = frame_of(*((pack_mask(a, offsets, k), pack_mask(b, offsets, k)) for a, b in zip(*keep, strict=True)))
    rows = frame.with_columns(row=pl.int_range(pl.len()) % n).sort("row", "variant").drop("row")
    beside = data.draw(st.lists(st.none() | st.integers(0, n - 1), min_size=rows.height, max_size=rows.height))
    rows = rows.with_columns(neighbour_index=pl.Series(beside, dtype=pl.Int32))
    cut = data.draw(st.integers(0, rows.height))
    stored = pack_views([rows[:cut], rows[cut:]], offsets, k, variants)

    asked = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, variants - 1)), min_size=1, max_size=8))
    items, of = (torch.tensor(part) for part in zip(*asked, strict=True))
    expected = [beside[row * variants + v] for row, v in asked]
    assert stored.neighbour(items, of).tolist() == [-1 if one is None else one for one in expected]
    sizes = torch.from_numpy(lengths.reshape(n, k).sum(1))[items]
    found = stored.kept(items, of, sizes)
    for side in range(2):
        own = [keep[side, v, offsets[row * k] : offsets[(row + 1) * k]] for row, v in asked]
        assert found[side].tolist() == np.concatenate(own).tolist()


def test_views_of_other_items_are_refused() -> None:
    offsets = torch.tensor([0, 3, 12])
    packed = pack_mask(np.ones(12, bool), offsets, 1)
    with pytest.raises(ValueError, match="other items"):
        unpack_masks(frame_of((packed, packed)), torch.tensor([0, 9, 12]), 1)
    with pytest.raises(ValueError, match="other items"):
        unpack_masks(frame_of((packed, packed)), torch.tensor([0, 3]), 1)
    frame = frame_of((packed, packed))
    for wrong in ([frame, frame], [frame[:1]], [frame.reverse()], [frame.with_columns(variant=pl.lit(1))]):
        with pytest.raises(ValueError, match="other items"):
            pack_views(wrong, offsets, 1, 1)
    with pytest.raises(ValueError, match="other items"):
        pack_views([frame], torch.tensor([0, 9, 12]), 1, 1)


def test_a_similarity_matrix_follows_the_order_of_the_features() -> None:
    pairs = pl.DataFrame(
        {"feature_a": ["a", "a", "b", "b"], "feature_b": ["a", "b", "a", "b"], "mi": [1.0, 2.0, 3.0, 4.0]}
    )
    assert views.similarity_matrix(pairs, ["b", "a"], "mi").tolist() == [[4.0, 3.0], [2.0, 1.0]]
    with pytest.raises(ValueError, match=r"5 pairs of features are not measured, first \('a', 'c'\)"):
        views.similarity_matrix(pairs, ["a", "b", "c"], "mi")
