"""The worked examples of the docstrings hold."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["losses", "popularity", "views", "evaluation.metrics"])
def test_the_examples_of_a_module_hold(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"ssl_recall.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
