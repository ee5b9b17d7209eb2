import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl_recall.data.codes import Kind
from ssl_recall.data.features import Bags, EncodedTable, bags_of, hide
from ssl_recall.data.histories import Histories
from ssl_recall.embedding import average_features
from ssl_recall.towers import FeatureEmbeddings, Tower, TwoTower, two_tower, unit

few = settings(max_examples=20, deadline=None)
VOCABULARIES = {"item_id": 6, "words": 9, "image": 2, "user": 5}


def table_of(
    kinds: dict[str, Kind], bags: list[list[int]], dense: Tensor | None = None, **renamed: str
) -> EncodedTable:
    """Build a table from its bags, row after row; `renamed` gives a feature another vocabulary than its name."""
    offsets = torch.tensor([0, *[len(bag) for bag in bags]]).cumsum(0)
    codes = torch.tensor([code for bag in bags for code in bag], dtype=torch.int32)
    vocabularies = tuple(renamed.get(name, name) for name in kinds)
    return EncodedTable(
        tuple(kinds), tuple(kinds.values()), vocabularies, codes, offsets, {} if dense is None else {"image": dense}
    )


ITEM_KINDS = {"item_id": Kind.ID, "words": Kind.MULTI_VALUED, "image": Kind.DENSE}
ITEMS = table_of(
    ITEM_KINDS,
    [[2], [3, 4], [1], [3], [5], [1], [4], [0], [0], [2], [3, 4], [1]],
    torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.0, 0.0], [1.0, 2.0]]),
)
QUERIES = table_of({"user": Kind.ID, "likes": Kind.MULTI_VALUED}, [[2], [3], [3], [6, 7], [2], [3]], likes="words")


def model_of(seed: int = 0, history: bool = False, queries: EncodedTable = QUERIES) -> TwoTower:
    return two_tower(ITEMS, queries, VOCABULARIES, embedding_width=4, hidden=[8], width=5, history=history, seed=seed)


def rows_of(table: EncodedTable, *rows: int) -> Bags:
    return bags_of(table, torch.tensor(rows))


def past_of(model: TwoTower, *taken: list[int]) -> Tensor:
    """Average the features of the items that each query took: (B, K, E)."""
    lengths = torch.tensor([len(items) for items in taken])
    return average_features(model, Histories(torch.tensor([i for items in taken for i in items]), lengths), ITEMS)


# --- unit ---


def test_unit_worked_by_hand() -> None:
    found = unit(torch.tensor([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]]))


@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), min_size=1, max_size=4))
@few
def test_unit_is_division_by_the_norm(rows: list[list[float]]) -> None:
    found = unit(torch.tensor(rows))
    assert found.isfinite().all()
    for row, scaled in zip(rows, found.tolist(), strict=True):
        norm = math.sqrt(math.fsum(x * x for x in row))
        if norm > 1e-3:
            assert scaled == pytest.approx([x / norm for x in row], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_zero_vector_has_no_nan_and_no_exploding_gradient(dtype: torch.dtype) -> None:
    """F43: `F.normalize` with its default eps, 1e-12, gives 1e12 here."""
    zeros = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    unit(zeros).sum().backward()
    assert zeros.grad.isfinite().all()
    assert zeros.grad.abs().max() <= 1.1e6
    control = torch.zeros(2, 3, requires_grad=True)
    torch.nn.functional.normalize(control, dim=1).sum().backward()
    assert control.grad.abs().max() > 1e11


def test_a_tower_whose_weights_are_all_zero_trains_without_nan() -> None:
    model = model_of()
    with torch.no_grad():
        for weight in model.item.parameters():
            weight.zero_()
    vectors = model.item(rows_of(ITEMS, 0, 1))
    assert not vectors.any()
    (vectors * torch.arange(5.0)).sum().backward()
    gradients = [weight.grad.to_dense() for weight in model.item.parameters() if weight.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


# --- embeddings ---


def slow_pool(weight: list[list[float]], first: dict[str, int], names: list[str], bags: list[list[int]]) -> Tensor:
    """Average the vectors of each bag's codes, within the rows of its vocabulary, in float64."""
    pooled = []
    for place, bag in enumerate(bags):
        vectors = [weight[first[names[place % len(names)]] + code] for code in bag]
        pooled.append([math.fsum(column) / len(bag) for column in zip(*vectors, strict=True)])
    return torch.tensor(pooled, dtype=torch.float64).view(-1, len(names), len(weight[0]))


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), min_size=6, max_size=6), st.integers(0, 99))
@few
def test_each_bag_is_the_mean_of_its_vocabularys_vectors(bags: list[list[int]], seed: int) -> None:
    vocabularies = {"a": 5, "b": 7, "c": 5}
    embeddings = FeatureEmbeddings(vocabularies, 3)
    with torch.no_grad():
        embeddings.weight.copy_(torch.randn(17, 3, generator=torch.Generator().manual_seed(seed)))
    names = ["c", "a", "c"]  # two features of one vocabulary
    starts = torch.tensor([embeddings.starts[name] for name in names])
    codes = torch.tensor([code for bag in bags for code in bag])
    found = embeddings(Bags(codes, torch.tensor([len(bag) for bag in bags]), {}), starts)
    assert found.shape == (2, 3, 3)
    first = {"a": 0, "b": 5, "c": 12}
    assert len(embeddings.weight) == sum(vocabularies.values())
    expected = slow_pool(embeddings.weight.double().tolist(), first, names, bags)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_only_the_rows_of_the_batch_have_a_gradient() -> None:
    model = model_of()
    model.item(rows_of(ITEMS, 0)).sum().backward()
    grad = model.embeddings.weight.grad
    assert grad.is_sparse
    starts = model.embeddings.starts
    touched = [starts["item_id"] + 2, starts["words"] + 3, starts["words"] + 4, starts["image"] + 1]
    assert set(grad.coalesce().indices()[0].tolist()) == set(touched)


# --- towers ---


def test_vectors_have_length_one() -> None:
    model = model_of()
    for vectors in (model.item(rows_of(ITEMS, 0, 1, 2, 3)), model.query(rows_of(QUERIES, 0, 1, 2))):
        assert vectors.shape[1] == 5
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))


def test_rows_of_the_same_features_have_the_same_vector() -> None:
    """Items 0 and 3, and queries 0 and 2, have equal features; the rest of the batch has no influence."""
    model = model_of()
    items, queries = model.item(rows_of(ITEMS, 0, 1, 2, 3)), model.query(rows_of(QUERIES, 0, 1, 2))
    torch.testing.assert_close(items[0], items[3])
    torch.testing.assert_close(queries[0], queries[2])
    torch.testing.assert_close(items[0], model.item(rows_of(ITEMS, 0))[0])
    assert not torch.allclose(items[0], items[1])
    assert not torch.allclose(queries[0], queries[1])


def test_the_order_of_a_bags_values_does_not_matter() -> None:
    model = model_of()
    turned = table_of(ITEM_KINDS, [[2], [4, 3], [1]], ITEMS.dense["image"][:1])
    torch.testing.assert_close(model.item(rows_of(turned, 0)), model.item(rows_of(ITEMS, 0)))


@given(st.integers(0, 3), st.integers(0, 2))
@few
def test_every_feature_is_seen(row: int, feature: int) -> None:
    """A change of any one code, or of the vector of a present image, moves the item."""
    model = model_of(seed=row)
    bags = rows_of(ITEMS, row)
    first = int(bags.lengths[:feature].sum())
    codes = bags.codes.clone()
    codes[first] = 1 - codes[first] if feature == 2 else codes[first] + 1
    assert not torch.allclose(model.item(replace(bags, codes=codes)), model.item(bags), atol=1e-5)


@pytest.mark.parametrize("hidden", [[], [8], [8, 6]])
def test_a_tower_may_have_any_number_of_layers(hidden: list[int]) -> None:
    model = two_tower(ITEMS, QUERIES, VOCABULARIES, embedding_width=3, hidden=hidden, width=4, history=False, seed=0)
    assert model.item(rows_of(ITEMS, 0, 1)).shape == (2, 4)


# --- shared tables ---


def test_a_vocabulary_named_by_both_towers_is_one_table() -> None:
    """Items have words and queries like words: moving word 3's vector moves the items and the queries with word 3."""
    model = model_of()
    items, queries = model.item(rows_of(ITEMS, 0, 1, 2)), model.query(rows_of(QUERIES, 0, 1))
    with torch.no_grad():
        model.embeddings.weight[model.embeddings.starts["words"] + 3] += 1.0
    items_now, queries_now = model.item(rows_of(ITEMS, 0, 1, 2)), model.query(rows_of(QUERIES, 0, 1))
    moved = [not torch.allclose(now, then) for now, then in zip(items_now, items, strict=True)]
    assert moved == [True, False, False]  # items 1 and 2 have no word 3, though item 1 has an id of code 3
    assert [not torch.allclose(now, then) for now, then in zip(queries_now, queries, strict=True)] == [True, False]


def test_training_one_tower_moves_the_shared_vectors_of_the_other() -> None:
    model = model_of()
    before = model.query(rows_of(QUERIES, 0, 1)).detach()
    model.item(rows_of(ITEMS, 0)).sum().backward()  # words 3 and 4
    with torch.no_grad():
        model.embeddings.weight.sub_(10 * model.embeddings.weight.grad.to_dense())
    after = model.query(rows_of(QUERIES, 0, 1))
    assert not torch.allclose(after[0], before[0])
    torch.testing.assert_close(after[1], before[1])  # words 6 and 7 and user 3 are not features of the item
    assert len(list(model.parameters())) == len({id(weight) for weight in model.parameters()})


def test_the_perceptrons_are_not_shared() -> None:
    """With the same features on both sides, as in an item-to-item model, the two towers still differ."""
    model = model_of(queries=ITEMS)
    query, item = (tower(rows_of(ITEMS, 0, 1)) for tower in (model.query, model.item))
    assert not torch.allclose(query, item)


# --- dense features ---


def test_a_present_dense_vector_moves_the_item() -> None:
    """Control for the tests below."""
    model, bags = model_of(), rows_of(ITEMS, 0)
    other = replace(bags, dense={"image": torch.tensor([[-7.0, 3.0]])})
    assert not torch.allclose(model.item(other), model.item(bags))


@pytest.mark.parametrize("vector", [[-7.0, 3.0], [1e6, -1e6]])
def test_a_hidden_dense_feature_does_not_leak_its_vector(vector: list[float]) -> None:
    """LibRecommender leaves dense features unmasked in both views: a shortcut for SSL."""
    model = model_of()
    bags = hide(rows_of(ITEMS, 0), torch.tensor([True, True, True, False]))
    other = replace(bags, dense={"image": torch.tensor([vector])})
    assert torch.equal(model.item(other), model.item(bags))
    leaf = torch.tensor([vector], requires_grad=True)
    model.item(replace(bags, dense={"image": leaf})).sum().backward()
    assert not leaf.grad.any()


def test_a_missing_dense_feature_does_not_leak_its_vector() -> None:
    model, bags = model_of(), rows_of(ITEMS, 2)  # the image is missing: code 0
    other = replace(bags, dense={"image": torch.tensor([[-7.0, 3.0]])})
    assert torch.equal(model.item(other), model.item(bags))


def test_a_hidden_and_a_missing_feature_are_the_same_default() -> None:
    """With every value hidden, item 0 equals a row of defaults, in every kind of feature."""
    model = model_of()
    hidden = hide(rows_of(ITEMS, 0), torch.zeros(4, dtype=torch.bool))
    missing = table_of(ITEM_KINDS, [[0], [0], [0]], torch.zeros(1, 2))
    assert torch.equal(model.item(hidden), model.item(rows_of(missing, 0)))


def test_the_default_vector_is_learned() -> None:
    """LibRecommender's default is a frozen zero."""
    model = model_of()
    model.item(hide(rows_of(ITEMS, 0), torch.zeros(4, dtype=torch.bool))).sum().backward()
    grad = model.embeddings.weight.grad.to_dense()
    for name in ("item_id", "words", "image"):
        start = model.embeddings.starts[name]
        assert model.embeddings.weight[start].any()
        assert grad[start].any()


# --- histories ---


def test_a_history_describes_the_query_by_the_items_own_vectors() -> None:
    model = model_of(history=True)
    bags = rows_of(QUERIES, 0, 0)
    same = model.query(bags, past_of(model, [0, 3], [3, 0]))
    torch.testing.assert_close(same[0], same[1])
    other = model.query(bags, past_of(model, [0, 1], [3]))
    assert not torch.allclose(other[0], other[1])
    with torch.no_grad():
        model.embeddings.weight[model.embeddings.starts["item_id"] + 3] += 1.0
    moved = model.query(bags, past_of(model, [0, 1], [3]))
    assert not torch.allclose(moved[0], other[0])
    torch.testing.assert_close(moved[1], other[1])


def test_a_history_is_given_to_a_tower_that_has_one_and_to_no_other() -> None:
    with pytest.raises(AssertionError, match="history"):
        model_of(history=True).query(rows_of(QUERIES, 0))
    with pytest.raises(AssertionError, match="history"):
        model_of().query(rows_of(QUERIES, 0), past_of(model_of(), [2]))


def test_a_tower_without_ids_does_not_see_them() -> None:
    model = two_tower(
        ITEMS, QUERIES, VOCABULARIES, embedding_width=4, hidden=[8], width=5, history=True, seed=0, query_ids=False
    )
    bags, past = rows_of(QUERIES, 0, 0), past_of(model, [0], [0])
    bags.codes[0] = 3  # another user who likes the same
    torch.testing.assert_close(*model.query(bags, past))
    assert model.query.layers[0].in_features == model_of(history=True).query.layers[0].in_features - 4


# --- refusals ---


def test_a_table_of_an_unknown_vocabulary_is_refused_by_its_name() -> None:
    with pytest.raises(KeyError, match="likes"):
        Tower(FeatureEmbeddings(VOCABULARIES, 4), table_of({"likes": Kind.CATEGORICAL}, [[2]]), [8], 5)


def test_a_code_past_the_whole_table_is_refused() -> None:
    table = table_of({"user": Kind.ID, "likes": Kind.MULTI_VALUED}, [[99], [3]], likes="words")
    with pytest.raises((RuntimeError, IndexError), match=r"index|range|bound"):
        model_of().query(rows_of(table, 0))
