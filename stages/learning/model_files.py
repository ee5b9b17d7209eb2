"""A model on disk: its weights in safetensors, its shape and best epoch in JSON."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stages.run_folder import layout, reader
from stages.run_folder.job import Job
from stages.terminal.errors import ArtifactError

from .settings import ModelShape

if TYPE_CHECKING:
    import polars as pl

    from ssl_recall.data.features import EncodedTable
    from ssl_recall.towers import TwoTower


SHARED = ("query.embeddings.weight", "item.embeddings.weight")  # other names of embeddings.weight


def build(items: "EncodedTable", queries: "EncodedTable", features: "pl.DataFrame", shape: ModelShape) -> "TwoTower":
    """Build the model with its first weights."""
    from ssl_recall.towers import two_tower

    vocabularies = dict(features.select("vocabulary", "codes").unique(maintain_order=True).iter_rows())
    return two_tower(
        items,
        queries,
        vocabularies,
        embedding_width=shape.embedding_width,
        hidden=shape.hidden,
        width=shape.width,
        history=shape.history > 0,
        seed=shape.seed,
        query_ids=shape.query_ids,
    )


def save(job: Job, folder: str, model: "TwoTower", shape: ModelShape, best: dict[str, Any]) -> None:
    """Stage weights and JSON for publication."""
    from safetensors.torch import save as to_bytes

    weights = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    weights = {name: tensor for name, tensor in weights.items() if name not in SHARED}
    with job.open(f"{folder}{layout.WEIGHTS}") as file:
        file.write(to_bytes(weights))
    about = {"shape": asdict(shape), "epoch": best}
    with job.open(f"{folder}{layout.MODEL}") as file:
        file.write(json.dumps(about, indent=1, sort_keys=True).encode())


def load(
    job: reader.Reader, folder: str, items: "EncodedTable", queries: "EncodedTable"
) -> tuple["TwoTower", ModelShape]:
    """Read a model for these tables; return it with its shape. Raises ArtifactError if the tables do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        about = json.loads(job.path(f"{folder}{layout.MODEL}").read_bytes())
        shape = ModelShape(**about["shape"])
        model = build(items, queries, job.read(layout.FEATURES), shape)
        weights = from_bytes(job.path(f"{folder}{layout.WEIGHTS}").read_bytes())
        weights |= dict.fromkeys(SHARED, weights["embeddings.weight"])
        model.load_state_dict(weights)
    except (
        ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError, SafetensorError
    ) as error:  # fmt: skip
        line = (str(error).splitlines() or [type(error).__name__])[0]
        command = f"{layout.command_for(f'{folder}{layout.MODEL}')}{job.flags} --force"
        raise ArtifactError(
            f"{job.run / folder / 'model'}: does not fit the tables ({line}); run: {command}", "MODEL"
        ) from None
    return model, shape
