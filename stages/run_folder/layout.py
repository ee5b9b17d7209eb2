"""Name every file of a run folder, its writer, readers and columns; `docs/run-folder.md` says the same to people.

Column types: `id` is the user's own id type (string or integer), `code` is int32 or list<int32>, `as came` is the
user's own type. A name in angle brackets stands for any number of columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.terminal.errors import SettingsError

NO_SSL = "no-ssl/"  # the sub-folder of the model that is trained without SSL, for comparison

FEATURES = "features.parquet"
VOCABULARY = "vocabulary.parquet"
ITEMS = "items.parquet"
QUERIES = "queries.parquet"
TRAIN = "train.parquet"
VALIDATION = "validation.parquet"
TEST = "test.parquet"
QUARANTINE = "quarantine.parquet"
POPULARITY = "popularity.parquet"
MUTUAL_INFORMATION = "mutual_information.parquet"
VIEWS = "views.parquet"
TRAINING = "training.parquet"
WEIGHTS = "model/weights.safetensors"
MODEL = "model/model.json"
ITEM_EMBEDDINGS = "item_embeddings.parquet"
QUERY_EMBEDDINGS = "query_embeddings.parquet"
NO_SSL_MODEL = NO_SSL + MODEL
NO_SSL_ITEM_EMBEDDINGS = NO_SSL + ITEM_EMBEDDINGS
NO_SSL_QUERY_EMBEDDINGS = NO_SSL + QUERY_EMBEDDINGS
NEW_ITEM_EMBEDDINGS = "new_item_embeddings.parquet"  # default output of `export-embeddings --items`
NEW_QUERY_EMBEDDINGS = "new_query_embeddings.parquet"  # and of `export-embeddings --queries`
SEEDS = "seeds.parquet"
METRICS = "metrics.parquet"
TUNING = "tuning.parquet"
ABLATION = "ablation.parquet"
ABLATION_PAGE = "ablation.md"

MANIFEST = "manifest.json"
LOCK = ".lock"
PREVIOUS = ".previous"  # files that a publication is about to replace (previous_files.py)
CHECKPOINTS_FOLDER = "checkpoints"
SEEDS_FOLDER = "seeds"  # the ranks of `train-seeds`, one file per model and seed
TUNING_FOLDER = "tuning"  # the studies of `tune`
ABLATION_FOLDER = "ablation"  # the ranks of `ablate`, one file per arm and seed
FOLDERS = (
    "",
    "model",
    CHECKPOINTS_FOLDER,
    "no-ssl",
    "no-ssl/model",
    f"no-ssl/{CHECKPOINTS_FOLDER}",
    SEEDS_FOLDER,
    ABLATION_FOLDER,
    TUNING_FOLDER,
)
TRAININGS = {"": "train", NO_SSL: "train --no-ssl"}  # sub-folder of a model -> the stage that trains it


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

_OF_MODELS = ("train", "export-embeddings", "train-seeds", "evaluate", "tune", "ablate")
CONTRACT: dict[str, Artifact] = {
    FEATURES: Artifact(
        "prepare",
        ("compute-mi", "build-views", "show-views", *_OF_MODELS),
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
    VOCABULARY: Artifact(
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
    ITEMS: Artifact(
        "prepare",
        ("compute-popularity", "compute-mi", "build-views", "show-views", *_OF_MODELS),
        {"item_id": "id", "<feature>": "as came", "<feature>__code": "code"},
    ),
    QUERIES: Artifact("prepare", _OF_MODELS, {"query_id": "id", "<feature>": "as came", "<feature>__code": "code"}),
    TRAIN: Artifact("prepare", ("compute-popularity", *_OF_MODELS), _PAIRS),
    VALIDATION: Artifact("prepare", _OF_MODELS, _PAIRS),
    TEST: Artifact("prepare", ("train-seeds", "evaluate", "ablate"), _PAIRS),
    QUARANTINE: Artifact(
        "prepare",
        (),
        {"query_id": "id", "item_id": "id", "[timestamp]": "as came", "[weight]": "float32", "reason": "string"},
    ),
    POPULARITY: Artifact(
        "compute-popularity",
        ("train", "train-seeds", "evaluate", "tune", "ablate"),
        {"item_id": "id", "count": "int64", "p": "float64", "log_p": "float64"},
    ),
    MUTUAL_INFORMATION: Artifact(
        "compute-mi",
        ("build-views", "train-seeds", "tune", "ablate"),
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
    VIEWS: Artifact(
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
    TRAINING: Artifact(
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
    ITEM_EMBEDDINGS: Artifact(
        "export-embeddings", ("evaluate",), {"item_id": "id", "embedding": "fixed_size_list<float32>"}
    ),
    QUERY_EMBEDDINGS: Artifact(
        "export-embeddings", ("evaluate",), {"query_id": "id", "embedding": "fixed_size_list<float32>"}
    ),
    SEEDS: Artifact(
        "train-seeds",
        ("evaluate",),
        {
            "model": "string",
            "seed": "int64",
            "query_index": "int32",
            "item_index": "int32",
            "rank": "int32",
            "depth": "int32",
            "targets": "string",
        },
    ),
    METRICS: Artifact(
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
            "seeds": "int32",
            "n": "int64",
        },
    ),
    TUNING: Artifact(
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
    ABLATION: Artifact(
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
    WEIGHTS: "train",
    MODEL: "train",
    ABLATION_PAGE: "ablate",
}


def command_for(name: str) -> str:
    """Return the command that writes a file: `no-ssl/training.parquet` -> `ssl-recall train --no-ssl`."""
    plain = name.removeprefix(NO_SSL)
    return f"ssl-recall {WRITER[plain]}" + (" --no-ssl" if plain != name else "")


def check_columns(name: str, schema: Mapping[str, object]) -> None:
    """Assert that a table has the columns of its contract: a stage that breaks it has a bug."""
    columns = CONTRACT[name.removeprefix(NO_SSL)].columns
    optional = {column.strip("[]") for column in columns if column.startswith("[")}
    required = {column for column in columns if column[0] not in "[<"}
    extra = schema.keys() - required - optional
    assert required <= schema.keys(), f"{name}: lacks {sorted(required - schema.keys())}"
    assert not extra or any(column.startswith("<") for column in columns), f"{name}: unnamed columns {sorted(extra)}"


def own_folder(path: Path) -> Path:
    """Refuse a run folder with foreign files: it must be new, empty, or written by ssl-recall (a --run callback).

    Also refuse links to folders inside it: a stage would write through them. Raises SettingsError.
    """
    if not path.is_dir():
        return path
    try:
        inside = list(path.iterdir())
    except PermissionError as error:
        raise SettingsError(f"--run {path}: cannot be read ({error.strerror})", "RUN") from None
    if inside and not any((path / name).is_file() or (path / name).is_symlink() for name in (MANIFEST, LOCK)):
        names = ", ".join(sorted(p.name for p in inside)[:3])
        raise SettingsError(f"--run {path}: is no run folder, it holds {names}; name a new one", "RUN")
    for link in (p for folder in (path, path / NO_SSL) if folder.is_dir() for p in folder.iterdir()):
        if link.is_symlink() and link.is_dir():
            raise SettingsError(f"--run {path}: {link.name} is a link to another folder; remove it", "RUN")
    return path
