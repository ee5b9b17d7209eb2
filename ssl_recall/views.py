"""Two corrupted views of every item, as bit masks over its values (Yao et al., CIKM 2021).

Stage 1, a transform, hides whole features: two (N, K) masks, one per view, True where the feature is kept. Stage 2,
value dropout, drops single values of multi-valued features: two (V,) masks, True where the value is kept. The tower
replaces a feature without kept values by its learned default vector.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ssl_recall.data.codes import Kind
from ssl_recall.data.features import EncodedTable
from ssl_recall.data.packed_views import Mask

if TYPE_CHECKING:
    import polars as pl

Masks = tuple[Mask, Mask]  # view a, view b

BLOCK = 2**18  # items whose views come from one random stream
_SEEDS = 1  # random stream of the seed features; the blocks of a variant use the even streams


def view_generator(seed: int, variant: int, block: int = 0) -> np.random.Generator:
    """Return the generator of one variant and one block of items, whatever the number of variants and blocks."""
    return np.random.default_rng([seed, variant, 2 * block])


def nothing_hidden(items: int, features: int) -> Masks:
    """Hide no feature: only value dropout makes the views differ (`NoMasking` in the paper)."""
    return np.ones((items, features), bool), np.ones((items, features), bool)


def random_mask(rng: np.random.Generator, items: int, features: int, mask_rate: float) -> Masks:
    """Hide each feature of each item with probability `mask_rate`, independently in each view (`RFM_no_compl`)."""
    return rng.random((items, features)) >= mask_rate, rng.random((items, features)) >= mask_rate


def complementary(rng: np.random.Generator, items: int, features: int) -> Masks:
    """Split each item's features at random: view a keeps floor(K / 2) of them, view b the rest (`RFM`)."""
    rank = rng.random((items, features)).argsort(axis=1).argsort(axis=1)
    keep_a = rank < features // 2
    return keep_a, ~keep_a


def correlated(
    similarity: NDArray[np.float64],  # (K, K), from `similarity_matrix`
    seed_feature: int,  # the feature that the split starts from
    items: int,
) -> Masks:
    """Hide the seed and the floor(K / 2) features most correlated with it in view a, all the others in view b (`CFM`).

    The kept features then say little about the hidden ones. Of equally similar features, the first goes with the seed.
    Raises ValueError if a similarity is not finite.

    >>> similarity = np.array([[1.0, 0.1, 0.9], [0.1, 1.0, 0.2], [0.9, 0.2, 1.0]])
    >>> correlated(similarity, seed_feature=0, items=1)  # feature 2 goes with feature 0
    (array([[False,  True, False]]), array([[ True, False,  True]]))
    """
    if not np.isfinite(similarity).all():
        raise ValueError("a similarity is not a finite number")
    k = len(similarity)
    nearest = np.argsort(-similarity[seed_feature], kind="stable")
    partners = nearest[nearest != seed_feature][: k // 2]
    keep_a = np.ones(k, bool)
    keep_a[[seed_feature, *partners]] = False
    return np.tile(keep_a, (items, 1)), np.tile(~keep_a, (items, 1))


def seed_feature(seed: int, variant: int, features: int) -> int:
    """Draw a variant's seed feature, 0 .. features - 1; every feature comes once before any comes again."""
    cycle, place = divmod(variant, features)
    return int(np.random.default_rng([seed, cycle, _SEEDS]).permutation(features)[place])


def by_coin(rng: np.random.Generator, items: int) -> Masks:
    """Keep a single feature in exactly one of the two views, drawn by a coin per item: -> two (N, 1) masks."""
    keep_a = rng.random((items, 1)) < 0.5
    return keep_a, ~keep_a


def similarity_matrix(
    pairs: "pl.DataFrame",  # mutual_information.parquet
    features: Sequence[str],  # (K,)
    measure: str,  # column of `pairs`: mi, mi_corrected or mi_normalised
) -> NDArray[np.float64]:
    """Return one measure as (K, K), in the order of `features`. Raises ValueError if a pair is missing."""
    known = dict(zip(zip(pairs["feature_a"], pairs["feature_b"], strict=True), pairs[measure], strict=True))
    missing = [(a, b) for a in features for b in features if (a, b) not in known]
    if missing:
        raise ValueError(f"{len(missing)} pairs of features are not measured, first {missing[0]}")
    return np.array([[known[a, b] for b in features] for a in features], np.float64).reshape(len(features), -1)


def drop_values(
    rng: np.random.Generator,
    keep: Masks,  # (N, K) each, True where stage 1 keeps the feature
    table: EncodedTable,
    rate: float,
) -> Masks:
    """Drop each value of a multi-valued feature with probability `rate`, independently in each view (stage 2).

    -> (V,) each, True where both stages keep the value. A feature may lose all its values.
    """
    lengths = np.diff(table.offsets.numpy())
    multi_valued = np.array([kind is Kind.MULTI_VALUED for kind in table.kinds])
    droppable = np.repeat(np.tile(multi_valued, table.rows), lengths)
    values_a, values_b = (np.repeat(features.ravel(), lengths) for features in keep)
    for values in (values_a, values_b):
        values[droppable] &= rng.random(int(droppable.sum())) >= rate
    return values_a, values_b
