"""Measure the recall of content alone: TF-IDF over the values that queries and items share, exact and projected.

    python benchmarks/quality/content.py --run runs/debian-0.1 --widths 64 128 256

It trains nothing. It is a baseline for the cold items of a log whose queries are items. If the run folder has exported
vectors, it also measures these, and their lists with the last places replaced by the first items by content.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.preprocessing import normalize
from sklearn.random_projection import GaussianRandomProjection

from ssl_recall.data.codes import FIRST, Kind
from ssl_recall.data.features import EncodedTable
from ssl_recall.evaluation import metrics, retrieval
from ssl_recall.evaluation.comparison import Truth
from stages.learning import hardware, training_inputs
from stages.learning.held_out import truth_of
from stages.run_folder import reader

K = 50
BLOCK = 512
VECTORS = ("item_embeddings.parquet", "query_embeddings.parquet")
READS = (
    "features.parquet",
    "items.parquet",
    "queries.parquet",
    "train.parquet",
    "validation.parquet",
    "test.parquet",
    "popularity.parquet",
)


def counts_of(table: EncodedTable, sizes: dict[str, int]) -> sp.csr_matrix:
    """Count the values of each row, one block of columns per vocabulary in `sizes`: (N, sum of sizes)."""
    lengths = np.diff(table.offsets.numpy())
    row, feature = np.divmod(np.repeat(np.arange(len(lengths)), lengths), len(table.names))
    codes, blocks = table.codes.numpy(), []
    for name, size in sizes.items():
        kept = (feature == table.vocabularies.index(name)) & (codes >= FIRST)
        ones = np.ones(int(kept.sum()), np.float32)
        blocks.append(sp.csr_matrix((ones, (row[kept], codes[kept])), shape=(table.rows, size)))
    return sp.hstack(blocks).tocsr()


def nearest(queries: sp.csr_matrix, items: sp.csr_matrix, truth: Truth, allowed: np.ndarray) -> torch.Tensor:
    """Return the K allowed items with the highest cosine, without the query's earlier items, best first: (Q, K)."""
    offsets, taken = (part.numpy() for part in truth.known)
    across, lists = items.T.tocsr(), []
    for low in range(0, queries.shape[0], BLOCK):
        scores = (queries[low : low + BLOCK] @ across).toarray()
        scores[:, ~allowed] = -1
        for row in range(len(scores)):
            scores[row, taken[offsets[low + row] : offsets[low + row + 1]]] = -2
        lists.append(torch.topk(torch.from_numpy(scores), K).indices)
    return torch.cat(lists)


def recall(lists: torch.Tensor, truth: Truth) -> dict[str, float]:
    """Return recall@K by slice."""
    hit = metrics.hits(lists, truth.pair_rows, truth.pair_items).any(1)
    parts = metrics.slices(truth.counts).items()
    found = {name: hit[part[truth.pair_items]].double().mean().item() for name, part in parts}
    return {name: round(value, 4) for name, value in found.items() if not np.isnan(value)}


def dense(queries: np.ndarray, items: np.ndarray, truth: Truth, allowed: np.ndarray) -> torch.Tensor:
    """Return the K nearest allowed items of dense vectors, by cosine: (Q, K)."""
    barred = torch.from_numpy(np.where(allowed, 0.0, -9.0).astype(np.float32))[:, None]
    q, i = (torch.from_numpy(normalize(vectors).astype(np.float32)) for vectors in (queries, items))
    return retrieval.top_k(torch.cat([q, torch.ones(len(q), 1)], 1), torch.cat([i, barred], 1), K, truth.known)[0]


def mixed(lists: torch.Tensor, others: torch.Tensor, places: int) -> torch.Tensor:
    """Replace the last places of each list by the first items of the other list that it lacks: (Q, K)."""
    kept = lists[:, : K - places]
    new = ~(others[:, :, None] == kept[:, None, :]).any(2)
    order = torch.argsort(~new, dim=1, stable=True)[:, :places]
    return torch.cat([kept, others.gather(1, order)], 1)


def main() -> None:
    """Print one line of JSON for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--widths", type=int, nargs="*", default=[64, 128, 256])
    parser.add_argument("--places", type=int, nargs="*", default=[5, 10, 15, 20])
    options = parser.parse_args()
    hardware.use(1, torch.device("cpu"))
    vectors = [name for name in VECTORS if (options.run / name).exists()]
    with reader.reading(options.run, [*READS, *vectors]) as job:
        truth, (items, queries) = truth_of(job), training_inputs.item_and_query_tables(job)
        features = job.read("features.parquet")
        own = [job.read(name)["embedding"].to_numpy() for name in vectors]
    sizes = dict(features.select("vocabulary", "codes").unique(maintain_order=True).iter_rows())
    described = [name for name, kind in zip(items.vocabularies, items.kinds, strict=True) if kind is not Kind.ID]
    sizes = {name: sizes[name] for name in described if name in queries.vocabularies}
    if not sizes:
        parser.error(f"{options.run}: queries and items share no feature but ids")
    found = counts_of(items, sizes)
    weigh = TfidfTransformer().fit(found)
    item_texts = weigh.transform(found)
    query_texts = weigh.transform(counts_of(queries, sizes)[truth.queries.numpy()])
    every, cold = np.ones(items.rows, bool), (truth.counts == 0).numpy()

    def tell(name: str, lists: torch.Tensor, among_cold: torch.Tensor | None = None) -> None:
        only = {} if among_cold is None else {"cold, of cold items alone": recall(among_cold, truth).get("cold")}
        print(json.dumps({"model": name, **recall(lists, truth), **only}), flush=True)

    by_text = nearest(query_texts, item_texts, truth, every)
    tell("tf-idf", by_text, nearest(query_texts, item_texts, truth, cold))
    for width in options.widths:
        projection = GaussianRandomProjection(width, random_state=1).fit(item_texts)
        pair = projection.transform(query_texts), projection.transform(item_texts)
        tell(f"tf-idf in {width} dimensions", *(dense(*pair, truth, allowed) for allowed in (every, cold)))
    if len(own) == len(VECTORS):
        pair = own[1][truth.queries.numpy()], own[0]
        lists = dense(*pair, truth, every)
        tell("ssl-recall", lists, dense(*pair, truth, cold))
        for places in options.places:
            tell(f"ssl-recall, the last {places} places to tf-idf", mixed(lists, by_text, places))


if __name__ == "__main__":
    main()
