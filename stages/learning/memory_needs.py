"""The least memory that a stage needs, in bytes, from the footers of its inputs (run_folder/memory_floor.py)."""

import os
from collections.abc import Iterable

from stages.run_folder import layout
from stages.run_folder.reader import Reader

CODE = 4  # bytes of a code or of a weight
PAIR = 8  # bytes of an interaction: two row numbers


def of_training(inputs: Reader, embedding_width: int) -> float:
    """Count the embedding table three times (best epoch, checkpoint), the codes of the catalogue, and the log."""
    return 3 * _of_embeddings(inputs, embedding_width) + of_catalogue(inputs) + PAIR * inputs.rows(layout.TRAIN)


def of_arms(inputs: Reader, embedding_widths: Iterable[int]) -> float:
    """Count as `of_training`, without a checkpoint, for the widest arm: at least one arm trains at a time."""
    embeddings = _of_embeddings(inputs, max(embedding_widths))
    return 2 * embeddings + of_catalogue(inputs) + PAIR * inputs.rows(layout.TRAIN)


def of_catalogue(inputs: Reader) -> float:
    """Count one code per feature and item."""
    features = inputs.read(layout.FEATURES, ["side"]).filter(side="item").height
    return float(CODE * inputs.rows(layout.ITEMS) * features)


def of_export(inputs: Reader, weights: str) -> float:
    """Count the weights once, and the codes of the catalogue."""
    return os.fstat(inputs.descriptor(weights)).st_size + of_catalogue(inputs)


def of_evaluation(inputs: Reader) -> float:
    """Count the item vectors of every measured model."""
    vectors = [name for name in inputs.inputs if name.endswith(layout.ITEM_EMBEDDINGS)]
    return float(sum(os.fstat(inputs.descriptor(name)).st_size for name in vectors))


def _of_embeddings(inputs: Reader, width: int) -> float:
    """Count one embedding table."""
    features = inputs.read(layout.FEATURES, ["vocabulary", "codes"]).unique()
    return float(int(features["codes"].sum()) * width * CODE)
