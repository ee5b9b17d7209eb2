"""Run every stage in order; skip those whose content is up to date."""

from typing import Annotated

import typer

from stages.options import StageFolder
from stages.pipeline import steps_of
from stages.run_folder import layout
from stages.terminal import console

SeedsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1000,
        help="Trainings of each model, with different seeds. [default: that of train-seeds]",
        show_default=False,
    ),
]
BaselineOption = Annotated[bool, typer.Option(help="Also train the model without SSL, for comparison.")]


def run(
    ctx: typer.Context,
    folder: StageFolder,
    baseline: BaselineOption = True,
    seeds: SeedsOption = None,
) -> None:
    """Run all stages in order, each only if its settings or inputs have changed, and say why.

    prepare, compute-popularity, compute-mi, build-views, train, export-embeddings, train-seeds, evaluate; --baseline
    also trains and exports the model without SSL. Reads the settings file and your tables; writes every artifact.
    """
    for step in steps_of(ctx, folder.run, folder.config, baseline=baseline, seeds=seeds, force=folder.force):
        step()
    names = [part + name for part in layout.TRAININGS for name in (layout.ITEM_EMBEDDINGS, layout.QUERY_EMBEDDINGS)]
    paths = [folder.run / name for name in names]
    made = ", ".join(str(path) for path in paths if path.exists())
    console.line(f"{'run':<26} done; vectors: {made}")
