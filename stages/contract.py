"""What every file of a run folder holds, who writes it and who reads it; `data/README.md` says the same to people.

Column types: `id` is the user's own id type (string or integer), `code` is int32 or list<int32>, `as came` is the
user's own type. A name in angle brackets stands for any number of columns.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Artifact:
    """One file of a run folder: its writer (a subcommand), its readers, and its columns with their types."""

    writer: str
    readers: tuple[str, ...]
    columns: dict[str, str]


_PAIRS = {
    "query_id": "id",
    "item_id": "id",
    "query_index": "int32",
    "item_index": "int32",
    "[timestamp]": "as came",
    "[weight]": "float32",
}

CONTRACT: dict[str, Artifact] = {
    "features.parquet": Artifact(
        "prepare",
        ("compute-mi", "build-views", "show-views", "train", "export-embeddings", "tune", "ablate"),
        {
            "side": "string",
            "feature": "string",
            "kind": "string",
            "vocabulary": "string",
            "codes": "int64",
            "width": "int32",
            "missing": "float64",
        },
    ),
    "vocabulary.parquet": Artifact(
        "prepare",
        ("show-views", "export-embeddings"),
        {
            "vocabulary": "string",
            "code": "int32",
            "value": "string",
            "low": "float64",
            "high": "float64",
            "count": "int64",
        },
    ),
    "items.parquet": Artifact(
        "prepare",
        (
            "compute-popularity",
            "compute-mi",
            "build-views",
            "show-views",
            "train",
            "export-embeddings",
            "tune",
            "ablate",
        ),
        {"item_id": "id", "<feature>": "as came", "<feature>__code": "code"},
    ),
    "queries.parquet": Artifact(
        "prepare",
        ("train", "export-embeddings", "tune", "ablate"),
        {"query_id": "id", "<feature>": "as came", "<feature>__code": "code"},
    ),
    "train.parquet": Artifact(
        "prepare", ("compute-popularity", "train", "export-embeddings", "evaluate", "tune", "ablate"), _PAIRS
    ),
    "validation.parquet": Artifact("prepare", ("train", "export-embeddings", "evaluate", "tune", "ablate"), _PAIRS),
    "test.parquet": Artifact("prepare", ("evaluate", "ablate"), _PAIRS),
    "quarantine.parquet": Artifact(
        "prepare",
        (),
        {"query_id": "id", "item_id": "id", "[timestamp]": "as came", "[weight]": "float32", "reason": "string"},
    ),
    "popularity.parquet": Artifact(
        "compute-popularity",
        ("train", "evaluate", "tune", "ablate"),
        {"item_id": "id", "count": "int64", "p": "float64", "log_p": "float64"},
    ),
    "mutual_information.parquet": Artifact(
        "compute-mi",
        ("build-views", "tune", "ablate"),
        {
            "feature_a": "string",
            "feature_b": "string",
            "mi": "float64",
            "mi_chance": "float64",
            "mi_corrected": "float64",
            "mi_normalised": "float64",
            "entropy_a": "float64",
            "entropy_b": "float64",
            "values_a": "int64",
            "values_b": "int64",
            "fingerprint_a": "string",
            "fingerprint_b": "string",
        },
    ),
    "views.parquet": Artifact(
        "build-views",
        ("show-views", "train"),
        {
            "item_id": "id",
            "variant": "int16",
            "seed_feature": "string",
            "keep_a": "binary",
            "keep_b": "binary",
            "neighbour_index": "int32",
        },
    ),
    "training.parquet": Artifact(
        "train",
        (),
        {
            "epoch": "int32",
            "steps": "int64",
            "main_loss": "float64",
            "ssl_loss": "float64",
            "loss": "float64",
            "recall_at_50": "float64",
            "recall_head_at_50": "float64",
            "recall_tail_at_50": "float64",
            "recall_cold_at_50": "float64",
            "recall_balanced_at_50": "float64",
            "best": "bool",
        },
    ),
    "item_embeddings.parquet": Artifact(
        "export-embeddings", ("evaluate",), {"item_id": "id", "embedding": "fixed_size_list<float32>"}
    ),
    "query_embeddings.parquet": Artifact(
        "export-embeddings", ("evaluate",), {"query_id": "id", "embedding": "fixed_size_list<float32>"}
    ),
    "metrics.parquet": Artifact(
        "evaluate",
        (),
        {
            "model": "string",
            "slice": "string",
            "metric": "string",
            "k": "int32",
            "value": "float64",
            "low": "float64",
            "high": "float64",
            "n": "int64",
        },
    ),
    "tuning.parquet": Artifact(
        "tune",
        ("ablate",),
        {
            "arm": "string",
            "trial": "int32",
            "settings": "string",
            "value": "float64",
            "recall": "float64",
            "recall_head": "float64",
            "recall_tail": "float64",
            "recall_cold": "float64",
            "epochs": "int32",
            "seconds": "float64",
            "best": "bool",
        },
    ),
    "ablation.parquet": Artifact(
        "ablate",
        (),
        {
            "arm": "string",
            "slice": "string",
            "metric": "string",
            "k": "int32",
            "value": "float64",
            "std": "float64",
            "difference": "float64",
            "low": "float64",
            "high": "float64",
            "by_seed": "list<float64>",
            "seeds": "int32",
            "n": "int64",
        },
    ),
}

WRITER = {name: artifact.writer for name, artifact in CONTRACT.items()} | {
    "model/weights.safetensors": "train",
    "model/model.json": "train",
    "ablation.md": "ablate",
}

NO_SSL = "no-ssl/"  # the sub-folder of the model trained without SSL for comparison
TRAININGS = {"": "train", NO_SSL: "train --no-ssl"}  # sub-folder of a model -> the stage that trains it


def command_for(name: str) -> str:
    """Give the command that writes this file: `no-ssl/training.parquet` -> `ssl-recall train --no-ssl`."""
    plain = name.removeprefix(NO_SSL)
    return f"ssl-recall {WRITER[plain]}" + (" --no-ssl" if plain != name else "")
