"""A model on disk: safetensors for the weights, JSON for what rebuilds it; and the tables it reads, as tensors."""

import json
from typing import TYPE_CHECKING, Any

from . import artifacts, contract, reader
from .errors import ArtifactError, SettingsError
from .feature_columns import CODE

if TYPE_CHECKING:
    import polars as pl
    import torch

    from ssl_recall.batches import Interactions
    from ssl_recall.features import EncodedTable
    from ssl_recall.towers import TwoTower

SHAPE = ("embedding_width", "hidden", "width", "history", "seed")  # the settings that a model is rebuilt from


def device_of(name: str) -> "torch.device":
    """Choose the device: `auto` is CUDA where there is one. Raises SettingsError for a name that torch cannot use."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"--device {name}: {str(error).splitlines()[0]}; try auto or cpu", "DEVICE") from None
    return torch.device(name)


def tables(job: reader.Reader) -> tuple["EncodedTable", "EncodedTable"]:
    """Read the catalogue and the queries as tensors."""
    features = job.read("features.parquet")
    return table(job, "items.parquet", features.filter(side="item")), table(
        job, "queries.parquet", features.filter(side="query")
    )


def outlines(job: reader.Reader) -> tuple["EncodedTable", "EncodedTable"]:
    """Read one row of the catalogue and one of the queries: what a model is built from."""
    from ssl_recall.features import encoded_table

    features = job.read("features.parquet")
    sides = (("items.parquet", "item"), ("queries.parquet", "query"))
    described = [(name, features.filter(side=side)) for name, side in sides]
    items, queries = (encoded_table(next(job.parts(name, columns_of(own), 1)), own) for name, own in described)
    return items, queries


def columns_of(features: "pl.DataFrame") -> list[str]:
    """Name the columns of a table that its tensors are made of: codes, and the vectors of dense features."""
    codes = [feature + CODE for feature in features["feature"]]
    return codes + features.filter(kind="dense")["feature"].to_list()


def table(job: reader.Reader, name: str, features: "pl.DataFrame") -> "EncodedTable":
    """Read one of the two as tensors."""
    from ssl_recall.features import encoded_table

    return encoded_table(job.read(name, columns_of(features)), features)


def log_from(job: reader.Reader, name: str, query_count: int) -> "Interactions":
    """Read a table of interactions without its times, a batch of rows at a time, into eight bytes an interaction."""
    import numpy as np
    import torch

    from ssl_recall.batches import interactions

    rows = job.rows(name)
    columns = {side: np.empty(rows, np.int32) for side in ("query_index", "item_index")}
    for side, column in columns.items():
        at = 0
        for batch in job.columns(name, side):
            column[at : at + len(batch)] = batch
            at += len(batch)
    queries, items = (torch.from_numpy(column) for column in columns.values())
    return interactions(queries, items, query_count)


def log_of(frame: "pl.DataFrame", query_count: int) -> "Interactions":
    """Index a table of interactions (train.parquet, say) by query; its timestamps order a history."""
    import polars as pl
    import torch

    from ssl_recall.batches import interactions

    frame = frame.sort("query_index", *[name for name in ("timestamp",) if name in frame.columns], "item_index")
    times = (
        torch.from_numpy(frame["timestamp"].cast(pl.Int64).to_numpy().copy()) if "timestamp" in frame.columns else None
    )
    return interactions(
        torch.from_numpy(frame["query_index"].cast(pl.Int64).to_numpy().copy()),
        torch.from_numpy(frame["item_index"].cast(pl.Int64).to_numpy().copy()),
        query_count,
        times,
    )


def log_before_test(job: reader.Reader, query_count: int) -> "Interactions":
    """Read what queries took up to the test period, with its times: the history that a test query is described by."""
    import polars as pl

    columns = ["query_index", "item_index", "timestamp"]
    seen = [job.read(name, columns) for name in ("train.parquet", "validation.parquet")]
    return log_of(pl.concat(seen), query_count)


def build(
    items: "EncodedTable", queries: "EncodedTable", features: "pl.DataFrame", shape: dict[str, Any]
) -> "TwoTower":
    """Make the model with its first weights; `shape` holds the settings named in SHAPE."""
    from ssl_recall.training import two_tower

    vocabularies = dict(features.select("vocabulary", "codes").unique(maintain_order=True).iter_rows())
    return two_tower(
        items,
        queries,
        vocabularies,
        embedding_width=shape["embedding_width"],
        hidden=shape["hidden"],
        width=shape["width"],
        history=shape["history"] > 0,
        seed=shape["seed"],
    )


def save(job: artifacts.Job, folder: str, model: "TwoTower", settings: dict[str, Any], best: dict[str, Any]) -> None:
    """Stage weights and JSON for publication."""
    from safetensors.torch import save as to_bytes

    weights = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    weights = {name: tensor for name, tensor in weights.items() if name not in SHARED}
    with job.open(f"{folder}model/weights.safetensors") as file:
        file.write(to_bytes(weights))
    about = {"shape": {name: settings[name] for name in SHAPE}, "epoch": best}
    with job.open(f"{folder}model/model.json") as file:
        file.write(json.dumps(about, indent=1, sort_keys=True).encode())


SHARED = ("query.embeddings.weight", "item.embeddings.weight")  # one table under three names


def load(
    job: reader.Reader, folder: str, items: "EncodedTable", queries: "EncodedTable"
) -> tuple["TwoTower", dict[str, Any]]:
    """Read a model for these tables; gives it with its shape. Raises ArtifactError when they do not fit it."""
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        about = json.loads(job.path(f"{folder}model/model.json").read_bytes())
        model = build(items, queries, job.read("features.parquet"), about["shape"])
        weights = from_bytes(job.path(f"{folder}model/weights.safetensors").read_bytes())
        weights |= dict.fromkeys(SHARED, weights["embeddings.weight"])
        model.load_state_dict(weights)
    except (
        ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError, SafetensorError
    ) as error:  # fmt: skip
        line = (str(error).splitlines() or [type(error).__name__])[0]
        command = f"{contract.command_for(f'{folder}model/model.json')}{job.flags} --force"
        raise ArtifactError(
            f"{job.run / folder / 'model'}: does not fit the tables ({line}); run: {command}", "MODEL"
        ) from None
    return model, about["shape"]
