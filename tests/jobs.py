"""The commands as Python functions: every setting a keyword, as the command line calls them."""

from typing import Any

import typer
from typer.main import get_command

from stages import build_views as build_views_job
from stages import cli, options
from stages import compute_mi as compute_mi_job
from stages import compute_popularity as compute_popularity_job
from stages import evaluate as evaluate_job
from stages import export_embeddings as export_embeddings_job
from stages import prepare as prepare_job
from stages import train as train_job
from stages import train_seeds as train_seeds_job
from stages.commands import init as init_command
from stages.commands import show_views as show_views_command

prepare = options.command(prepare_job.prepare)
compute_popularity = options.command(compute_popularity_job.compute_popularity)
compute_mi = options.command(compute_mi_job.compute_mi)
build_views = options.command(build_views_job.build_views)
train = options.command(train_job.train)
export_embeddings = options.command(export_embeddings_job.export_embeddings)
train_seeds = options.command(train_seeds_job.train_seeds)
evaluate = options.command(evaluate_job.evaluate)
show_views = options.command(show_views_command.show_views)


def init(*args: Any, **kwargs: Any) -> None:
    """`init`, which reads the defaults of the other commands through its context."""
    root: Any = get_command(cli.app)
    command = root.commands["init"]
    ctx = typer.Context(command, info_name="init", parent=typer.Context(root, info_name="ssl-recall"))
    init_command.init(ctx, *args, **kwargs)
