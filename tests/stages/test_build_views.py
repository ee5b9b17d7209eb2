"""build-views, from a prepared run folder to views.parquet."""

import hashlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ssl_recall import neighbours, views
from ssl_recall.data.features import encoded_table, rows_of
from ssl_recall.data.packed_views import NO_NEIGHBOUR, unpack_masks
from stages.compute_mi import IdRole
from stages.learning import drawn_views, view_settings
from stages.learning.view_settings import VARIANTS, IdView, Measure, Transform, ViewSettings, variants_of
from stages.terminal.errors import ArtifactError, SettingsError

from ..jobs import build_views, compute_mi

N, K = 6, 7
NAMES = ["item_id", "colour", "shade", "tags", "size", "picture", "licence"]
Kept = tuple[np.ndarray, np.ndarray]


def kept_features(run: Path) -> Kept:
    """Return whether each view keeps any value of a feature: two (variants, N, K)."""
    items, described = (pl.read_parquet(run / f"{name}.parquet") for name in ("items", "features"))
    table = encoded_table(items, described)
    pair = unpack_masks(pl.read_parquet(run / "views.parquet"), table.offsets, K)
    bags = list(pairwise(table.offsets.tolist()))
    kept_a, kept_b = (
        np.array([[mask[start:end].any() for start, end in bags] for mask in keep.numpy()]).reshape(-1, N, K)
        for keep in pair
    )
    return kept_a, kept_b


def digest(run: Path) -> str:
    return hashlib.sha256((run / "views.parquet").read_bytes()).hexdigest()


def test_each_item_has_its_variants_side_by_side_in_the_order_of_the_catalogue(catalogue: Path) -> None:
    compute_mi(catalogue)
    build_views(catalogue, variants=3)
    frame = pl.read_parquet(catalogue / "views.parquet")

    assert frame.select("item_id", "variant").rows() == [(item, variant) for item in "abcdef" for variant in range(3)]
    assert frame.schema["variant"] == pl.Int16
    assert frame.schema["keep_a"] == frame.schema["keep_b"] == pl.Binary
    assert frame["keep_a"].bin.size().to_list() == [2] * 3 + [1] * 15  # item a has nine values


@pytest.mark.parametrize("measure", list(Measure))
def test_correlated_hides_in_one_view_the_seed_and_the_features_most_like_it(catalogue: Path, measure: Measure) -> None:
    compute_mi(catalogue)
    build_views(catalogue, transform=Transform.CORRELATED, value_dropout=0.0, variants=6, measure=measure)
    kept_a, kept_b = kept_features(catalogue)
    seeds = pl.read_parquet(catalogue / "views.parquet").unique("variant").sort("variant")["seed_feature"]

    assert sorted(seeds) == sorted(NAMES[1:])
    pairs = pl.read_parquet(catalogue / "mutual_information.parquet")
    for variant, seed in enumerate(seeds):
        others = pairs.filter(pl.col("feature_a") == seed, pl.col("feature_b") != seed)
        nearest = others.sort(measure, descending=True, maintain_order=True)["feature_b"][:3]
        hidden = {NAMES[k] for k in range(1, K) if not kept_a[variant, 0, k]}
        assert hidden == {seed, *nearest}
    assert (kept_a[:, :, 1:] == kept_a[:, :1, 1:]).all()  # one split for all items of a variant
    assert (kept_a ^ kept_b).all()


def test_complementary_views_keep_half_the_features_each(catalogue: Path) -> None:
    compute_mi(catalogue)
    build_views(catalogue, transform=Transform.COMPLEMENTARY, value_dropout=0.0)
    kept_a, kept_b = kept_features(catalogue)

    assert (kept_a ^ kept_b).all()
    assert (kept_a[:, :, 1:].sum(2) == 3).all()
    assert pl.read_parquet(catalogue / "views.parquet")["seed_feature"].null_count() == VARIANTS * N


def test_dropout_alone_hides_only_values_of_the_multi_valued_feature(catalogue: Path) -> None:
    compute_mi(catalogue)
    build_views(catalogue, transform=Transform.DROPOUT, value_dropout=1.0, id_view=IdView.KEPT)
    for kept in kept_features(catalogue):
        assert (kept == (np.arange(K) != NAMES.index("tags"))).all()


def test_a_mask_rate_of_one_hides_everything_that_can_be_hidden(catalogue: Path) -> None:
    compute_mi(catalogue)
    build_views(catalogue, transform=Transform.RANDOM_MASK, mask_rate=1.0, id_view=IdView.KEPT)
    for kept in kept_features(catalogue):
        assert (kept == (np.arange(K) == 0)).all()


@pytest.mark.parametrize(("id_view", "views_that_keep_it"), [(IdView.RANDOM, 1), (IdView.HIDDEN, 0), (IdView.KEPT, 2)])
@pytest.mark.parametrize("transform", list(Transform))
def test_the_id_is_kept_in_as_many_views_as_asked(
    catalogue: Path, transform: Transform, id_view: IdView, views_that_keep_it: int
) -> None:
    compute_mi(catalogue)
    build_views(catalogue, transform=transform, id_view=id_view)
    kept_a, kept_b = kept_features(catalogue)
    assert (kept_a[:, :, 0].astype(int) + kept_b[:, :, 0] == views_that_keep_it).all()


def test_the_id_as_a_feature_is_one_of_those_that_are_split(catalogue: Path) -> None:
    compute_mi(catalogue, id=IdRole.INCLUDE)
    build_views(catalogue, transform=Transform.CORRELATED, id_view=IdView.FEATURE, value_dropout=0.0, variants=7)
    kept_a, kept_b = kept_features(catalogue)

    assert (kept_a[:, 0].sum(1) == K - 1 - K // 2).all()
    assert (kept_a ^ kept_b).all()
    assert "item_id" in pl.read_parquet(catalogue / "views.parquet")["seed_feature"].to_list()


def test_the_id_as_a_feature_asks_for_its_mutual_information(catalogue: Path) -> None:
    compute_mi(catalogue)
    with pytest.raises(SettingsError, match=r"NOT_MEASURED: .* item_id; run: ssl-recall compute-mi --id include"):
        build_views(catalogue, transform=Transform.CORRELATED, id_view=IdView.FEATURE)
    assert not (catalogue / "views.parquet").exists()
    build_views(catalogue, transform=Transform.COMPLEMENTARY, id_view=IdView.FEATURE)


@pytest.mark.parametrize("transform", list(Transform))
def test_same_settings_same_bytes_and_another_seed_other_views(catalogue: Path, transform: Transform) -> None:
    compute_mi(catalogue)
    digests = []
    for seed in (1, 1, 2):
        build_views(catalogue, transform=transform, seed=seed, force=True)
        digests.append(digest(catalogue))
    assert digests[0] == digests[1] != digests[2]


def test_more_variants_leave_the_first_ones_as_they_were(catalogue: Path) -> None:
    compute_mi(catalogue)
    build_views(catalogue, variants=2)
    few = pl.read_parquet(catalogue / "views.parquet")
    build_views(catalogue, variants=9)
    many = pl.read_parquet(catalogue / "views.parquet")
    assert many.filter(pl.col("variant") < 2).equals(few)


@pytest.mark.parametrize(
    ("asked", "items", "drawn"), [(None, 1_000_000, 32), (None, 1_000_001, 8), (3, 60, 3), (12, 1_000_001, 12)]
)
def test_a_catalogue_of_more_than_a_million_has_fewer_variants_unless_told(
    asked: int | None, items: int, drawn: int
) -> None:
    assert variants_of(ViewSettings(variants=asked), items) == drawn


def test_as_many_variants_as_the_catalogue_has_room_for_are_drawn_and_said(
    catalogue: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute_mi(catalogue)
    for limit, drawn in ((N, 32), (N - 1, 8)):
        monkeypatch.setattr(view_settings, "MANY_ITEMS", limit)
        build_views(catalogue, force=True)
        assert pl.read_parquet(catalogue / "views.parquet").height == N * drawn
        assert f", {drawn} pairs of views, " in capsys.readouterr().err


def test_correlated_views_without_the_mutual_information_name_the_command(catalogue: Path) -> None:
    with pytest.raises(ArtifactError, match=r"mutual_information\.parquet: missing; run: ssl-recall compute-mi"):
        build_views(catalogue)


def test_a_catalogue_with_nothing_but_the_id_has_no_correlated_views(
    catalogue: Path, prepared_again: Callable[..., None]
) -> None:
    prepared_again(catalogue, features=pl.read_parquet(catalogue / "features.parquet").head(1))
    compute_mi(catalogue)
    with pytest.raises(
        SettingsError, match="NO_FEATURES: --transform correlated needs a feature other than the item id"
    ):
        build_views(catalogue, transform=Transform.CORRELATED)
    build_views(catalogue, transform=Transform.COMPLEMENTARY)
    assert pl.read_parquet(catalogue / "views.parquet").height == VARIANTS * N


def test_every_block_of_items_has_draws_of_its_own(catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_mi(catalogue)
    monkeypatch.setattr(views, "BLOCK", 4)
    settings = {"transform": Transform.RANDOM_MASK, "id_view": IdView.FEATURE, "value_dropout": 0.0}
    build_views(catalogue, **settings, mask_rate=0.5, variants=3, seed=9)
    kept = kept_features(catalogue)
    for variant in range(3):
        drawn = [
            views.random_mask(views.view_generator(9, variant, block), size, K, 0.5) for block, size in ((0, 4), (1, 2))
        ]
        for side in range(2):
            assert np.array_equal(kept[side][variant], np.concatenate([masks[side] for masks in drawn]))
    stored = pl.read_parquet(catalogue / "views.parquet")
    items = pl.read_parquet(catalogue / "items.parquet")["item_id"].to_list()
    assert stored["item_id"].to_list() == [item for item in items for _ in range(3)]


def test_a_neighbour_shares_a_value_and_the_draws_depend_on_the_seed(catalogue: Path) -> None:
    compute_mi(catalogue)
    drawn = []
    for seed in (1, 1, 2):
        build_views(catalogue, seed=seed, force=True)
        stored = pl.read_parquet(catalogue / "views.parquet")
        assert stored.schema["neighbour_index"] == pl.Int32
        drawn.append(stored["neighbour_index"].to_list())
    assert drawn[0] == drawn[1] != drawn[2]
    features = pl.read_parquet(catalogue / "features.parquet").filter(side="item")
    names = features.filter(~pl.col("kind").is_in(["id", "dense"]))["feature"]
    items = pl.read_parquet(catalogue / "items.parquet").with_row_index()
    pairs = stored.select("item_id", index="neighbour_index").drop_nulls().with_columns(pl.col("index").cast(pl.UInt32))
    both = pairs.join(items, on="item_id").join(items, left_on="index", right_on="index", suffix="__other")
    assert both.height == pairs.height > 0
    for row in both.iter_rows(named=True):
        assert row["item_id"] != row["item_id__other"]
        codes = [[row[f"{name}__code{side}"] for side in ("", "__other")] for name in names]
        sets = [[set(code if isinstance(code, list) else [code]) for code in pair] for pair in codes]
        assert any(a & b - {0, 1} for a, b in sets)


def test_every_block_and_variant_has_neighbours_of_its_own(catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_mi(catalogue)
    monkeypatch.setattr(views, "BLOCK", 4)
    build_views(catalogue, variants=3, seed=9)
    table = encoded_table(*(pl.read_parquet(catalogue / f"{name}.parquet") for name in ("items", "features")))
    shared, stored = neighbours.sharing(table), pl.read_parquet(catalogue / "views.parquet")
    for variant in range(3):
        expected = [
            neighbours.draw(neighbours.neighbour_generator(9, variant, block), shared, rows_of(table, low, high), low)
            for block, (low, high) in enumerate([(0, 4), (4, 6)])
        ]
        assert stored.filter(variant=variant)["neighbour_index"].to_list() == np.concatenate(expected).tolist()


def test_an_item_without_a_neighbour_has_a_null() -> None:
    keep = pl.Series([b"", b""])
    frame = drawn_views._frame(pl.Series(["a", "b"]), 0, None, keep, keep, np.array([1, NO_NEIGHBOUR], np.int32))
    assert frame["neighbour_index"].to_list() == [1, None]
