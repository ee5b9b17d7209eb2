"""EASE: its weights are those of the closed form in float64, and minimise the squared error."""

import numpy as np
import pytest

from ssl_recall.baselines import ease, ranking

from .logs import asked_of, csr, dense_log


def test_two_items_by_hand() -> None:
    # G = [[2, 1], [1, 1]], penalty 1: P = inverse of [[3, 1], [1, 2]] = [[2, -1], [-1, 3]] / 5
    log = np.array([[1, 1], [1, 0]], np.float32)
    weights = ease.fit(ease.gram_of(csr(log)), 1.0).weights
    np.testing.assert_allclose(weights, [[0, 1 / 3], [1 / 2, 0]], rtol=1e-6)


@pytest.mark.parametrize("penalty", [0.5, 10.0])
@pytest.mark.parametrize("rounding", [1e-5, 1e9], ids=["float32", "float64"])
def test_the_scores_are_those_of_the_closed_form(
    penalty: float, rounding: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ease, "ROUNDING", rounding)
    for seed in range(3):
        log, histories = dense_log(seed, cold=2), dense_log(seed + 10, queries=5)
        warm = int((log.sum(0) > 0).sum())
        x = log[:, :warm].astype(np.float64)
        inverse = np.linalg.inv(x.T @ x + penalty * np.eye(warm))
        weights = -inverse / np.diag(inverse)[None, :]
        np.fill_diagonal(weights, 0)
        expected = np.zeros(histories.shape)
        expected[:, :warm] = np.maximum(histories[:, :warm] @ weights, 0)
        found = ease.fit(ease.gram_of(csr(log)), penalty)(asked_of(histories))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_other_weights_have_a_larger_penalised_error() -> None:
    log, rng = dense_log(4, cold=0), np.random.default_rng(1)
    weights = ease.fit(ease.gram_of(csr(log)), 3.0).weights.astype(np.float64)

    def error(own: np.ndarray) -> float:
        return float(((log - log @ own) ** 2).sum() + 3.0 * (own**2).sum())

    for _ in range(20):
        step = rng.normal(size=weights.shape) * 0.05
        np.fill_diagonal(step, 0)
        assert error(weights) < error(weights + step)


def test_cold_items_have_no_score_and_a_new_query_gets_the_most_popular() -> None:
    log = dense_log(2, cold=3)
    model = ease.fit(ease.gram_of(csr(log)), 10.0)
    assert not model(asked_of(log))[:, 6:].any()
    assert ranking.recall_lists(model, asked_of(np.zeros((1, 9), np.float32)), 4).tolist() == [[0, 1, 2, 3]]
