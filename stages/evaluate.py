"""Measure recall on the test pairs for head, tail and cold items, and compare it with the baselines."""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from typer import Option

from stages.learning import baseline_lists, hardware, memory_needs, model_files, training_inputs
from stages.learning.baseline_lists import Baseline
from stages.learning.held_out import Targets, truth_of
from stages.run_folder import dry_run, layout, reader
from stages.run_folder.memory_floor import Need
from stages.terminal import console, metrics_table, settings_file

from .options import StageFolder, no_result, recorded

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from ssl_recall.evaluation.comparison import Truth

OF_MODELS = (
    layout.TRAIN,
    layout.VALIDATION,
    layout.TEST,
    layout.POPULARITY,
    layout.ITEM_EMBEDDINGS,
    layout.QUERY_EMBEDDINGS,
)
READS = (*baseline_lists.READS, *OF_MODELS)  # with baselines
OF_NO_SSL = (layout.NO_SSL_ITEM_EMBEDDINGS, layout.NO_SSL_QUERY_EMBEDDINGS)
OPTIONAL = (*OF_NO_SSL, layout.SEEDS)
OF_NEXT = tuple(part + name for part in layout.TRAININGS for name in (layout.MODEL, layout.WEIGHTS))  # optional, too
WRITES = (layout.METRICS,)
MEASURES, MACHINE = "Measures", "Machine and output"


@dataclass(frozen=True)
class EvaluateSettings:
    """Every flag of `evaluate` but the run folder's."""

    k: Annotated[
        list[int],
        Option(min=1, max=100_000, help="List length k of the metrics; repeatable.", rich_help_panel=MEASURES),
    ] = field(default_factory=lambda: [10, 50, 100])
    head_share: Annotated[
        float, Option(min=0.0, max=1.0, help="Share of the items in the head.", rich_help_panel=MEASURES)
    ] = metrics_table.HEAD_SHARE
    baselines: Annotated[
        list[Baseline],
        Option(
            help="Simple baseline to measure; repeatable: recent-popular, item-knn, ease, content-knn, als. auto: all "
            "but als, as far as each takes seconds. none: most-popular alone.",
            show_choices=False,
            rich_help_panel=MEASURES,
        ),
    ] = field(default_factory=lambda: [Baseline.AUTO])
    targets: Annotated[
        Targets,
        Option(
            help="all: one list per query, whose targets are all its test pairs. next: one list per test pair, made "
            "from what the query took strictly before it, earlier test pairs included; needs times.",
            rich_help_panel=MEASURES,
        ),
    ] = Targets.ALL
    bootstrap: Annotated[
        int, Option(min=10, help="Bootstrap draws of queries for the 95 % intervals.", rich_help_panel=MEASURES)
    ] = 1000
    seed: Annotated[int, Option(min=0, max=2**62, help="Seed of the bootstrap.", rich_help_panel=MEASURES)] = 1
    threads: Annotated[int, Option(min=1, max=1024, help="Processor threads.", rich_help_panel=MACHINE)] = 1
    as_json: Annotated[
        bool, Option("--json", help="Print JSON on stdout instead of the table.", rich_help_panel=MACHINE)
    ] = no_result(False)

    @property
    def lengths(self) -> list[int]:
        """Return the distinct list lengths, ascending."""
        return sorted(set(self.k))

    @property
    def named(self) -> list[Baseline]:
        """Return the distinct baselines without `none`, in the order of their declaration."""
        return [name for name in Baseline if name in self.baselines and name is not Baseline.NONE]


def evaluate(folder: StageFolder, settings: EvaluateSettings) -> None:
    """Rank the whole catalogue for every test query by plain cosine; compare with simple baselines and with no SSL.

    Reads train, validation, test, popularity and the exported vectors, those of RUN/no-ssl/ and seeds too if they
    exist; for the baselines also features, items and queries. Writes metrics.parquet: recall, map and ndcg by slice
    with 95 % intervals, coverage, mean popularity. The lists leave out the training and validation items of the query.
    With seeds of train-seeds, figures are means over seeds, and intervals are over queries and seeds. --targets next
    makes one list per test pair, and reads model/ too if the query tower has a history.
    """
    by_pair = settings.targets is Targets.NEXT
    job = folder.job(
        "evaluate",
        recorded(settings) | {"k": settings.lengths, "baselines": settings.named},
        reads=READS if settings.named or by_pair else OF_MODELS,
        optional=(*OPTIONAL, *OF_NEXT) if by_pair else OPTIONAL,
        writes=WRITES,
        need=Need(memory_needs.of_evaluation, torch=True),
    )
    with job:
        if not job.up_to_date:
            from ssl_recall.evaluation import comparison, seeds

            hardware.use(settings.threads, hardware.device_of("cpu"))
            truth = truth_of(job, settings.targets)
            simple = _simple(job, truth, settings)
            own = _recalled(job, truth, max(settings.lengths), paired=is_fair(job))
            frame = comparison.compare_models(
                truth,
                simple | own,
                settings.lengths,
                settings.head_share,
                settings.bootstrap,
                settings.seed,
                baselines=simple,
            )
            further = _further_ranks(job, truth, settings.targets)
            ranks = {name: found for name, found in further.items() if name in own}
            ks = _averaged_lengths(job, settings.lengths) if ranks else []
            frame = seeds.average_seeds(frame, truth, simple | own, ranks, ks, settings.head_share, simple)
            job.write(layout.METRICS, frame)
            job.done(f"{len(truth.pair_items):,} test pairs of {len(truth.queries.unique()):,} queries")
    if dry_run.is_planning():
        return
    with reader.reading(folder.run, WRITES, folder.config) as published:
        frame = published.read(layout.METRICS)
    if settings.as_json:
        console.out.print(json.dumps(frame.to_dicts()), soft_wrap=True)
    else:
        metrics_table.show(frame, settings.head_share, by_pair=by_pair)


def is_fair(job: reader.Reader) -> bool:
    """Return True if both models have equal settings; otherwise warn that the model without SSL is left out."""
    with_ssl, without = (
        job.manifest["stages"].get(stage, {}).get("settings", {}) for stage in layout.TRAININGS.values()
    )
    differ = [
        name
        for name in sorted(with_ssl.keys() & without.keys() - {"ssl", "device", "threads"})
        if without[name] != with_ssl[name]
    ]
    if differ and all(job.has(file) for file in OF_NO_SSL):
        said = [f"{name} {without[name]} and {with_ssl[name]}" for name in differ]
        flags = "".join(f" {flag}" for name in differ for flag in settings_file.flags(name, with_ssl[name]))
        console.warn(
            f"the model without SSL was trained with other settings ({', '.join(said)}) and is left out; to compare "
            f"run: ssl-recall train --no-ssl{flags}{job.flags}, then export-embeddings --no-ssl"
        )
    return not differ


def _simple(job: reader.Reader, truth: "Truth", settings: EvaluateSettings) -> "dict[str, Tensor]":
    """Return the lists of most-popular and of each baseline: name -> (Q, k) item rows."""
    from ssl_recall.evaluation import comparison, retrieval

    k = max(settings.lengths)
    popular = retrieval.most_popular(truth.counts, len(truth.queries), k, truth.known)
    return {comparison.MOST_POPULAR: popular} | baseline_lists.lists_of_baselines(
        job, truth, k, settings.named, settings.seed, settings.threads
    )


def _recalled(job: reader.Reader, truth: "Truth", k: int, *, paired: bool) -> "dict[str, Tensor]":
    """Return the lists of the models with and, if `paired`, without SSL: name -> (Q, k) item rows."""
    from ssl_recall.evaluation import retrieval

    lists: dict[str, Tensor] = {}
    folders = {"no-ssl": layout.NO_SSL, "ssl": ""}
    for name, folder in folders.items():
        if folder and not (paired and all(job.has(file) for file in OF_NO_SSL)):
            continue
        items = _vectors(job.read(folder + layout.ITEM_EMBEDDINGS))
        lists[name], _ = retrieval.top_k(_query_vectors(job, folder, truth), items, k, truth.known)
    return lists


def _query_vectors(job: reader.Reader, folder: str, truth: "Truth") -> "Tensor":
    """Return the vector of the query of each list, (Q, D): as exported, or with the history before its one target."""
    if truth.owners is not None and job.has(folder + layout.MODEL) and job.has(folder + layout.WEIGHTS):
        from ssl_recall.data.histories import newest
        from ssl_recall.embedding import embed_queries

        items, queries = training_inputs.item_and_query_tables(job)
        model, shape = model_files.load(job, folder, items, queries)
        if shape.history:
            return embed_queries(model, queries, truth.queries, newest(*truth.known, shape.history), items)
    return _vectors(job.read(folder + layout.QUERY_EMBEDDINGS))[truth.queries]


def _further_ranks(job: reader.Reader, truth: "Truth", targets: Targets) -> "dict[str, list[Tensor]]":
    """Read the ranks of the further seeds: model -> for each seed (P,) int32, 0 for null."""
    ranks: dict[str, list[Tensor]] = {}
    if job.has(layout.SEEDS):
        pairs = [truth.queries[truth.pair_rows], truth.pair_items]
        frame = job.read(layout.SEEDS)
        if set(frame["targets"]) - {targets}:
            command = f"ssl-recall train-seeds --seeds {frame['seed'].n_unique() + 1} --targets {targets}{job.flags}"
            console.warn(f"{layout.SEEDS} has the ranks of other lists, so one seed is measured; run: {command}")
            return {}
        for (model, _), part in frame.group_by("model", "seed", maintain_order=True):
            same = (
                part[name].to_torch() == own for name, own in zip(("query_index", "item_index"), pairs, strict=True)
            )
            assert all(bool(column.all()) for column in same), "the ranks are of these test pairs in this order"
            ranks.setdefault(str(model), []).append(part["rank"].fill_null(0).to_torch())
    return ranks


def _averaged_lengths(job: reader.Reader, lengths: list[int]) -> list[int]:
    """Return the list lengths that the ranks of the further seeds cover; warn of the others."""
    depth = job.read(layout.SEEDS, ["depth"])["depth"][0]
    if max(lengths) > depth:
        console.warn(
            f"lists longer than {depth:,} are measured on one seed; to measure them on all run: ssl-recall train-seeds "
            f"--depth {max(lengths)}{job.flags}"
        )
    return [k for k in lengths if k <= depth]


def _vectors(frame: "pl.DataFrame") -> "Tensor":
    import torch

    return torch.from_numpy(frame["embedding"].to_numpy().copy())
