"""The two towers: embedded features, a perceptron with a linear skip connection, unit vectors."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_recall.data.codes import PRESENT, Kind
from ssl_recall.data.features import Bags, EncodedTable

UNIT_EPS = 1e-6  # with F.normalize's default, 1e-12, a zero vector has gradients of 1e12 in float32


class FeatureEmbeddings(nn.Module):
    """One table for the vocabularies of both towers; features of one vocabulary share its vectors."""

    def __init__(self, vocabularies: dict[str, int], width: int) -> None:
        """Lay out one table; `vocabularies` maps a name to its number of codes, default and unknown included."""
        super().__init__()
        self.starts: dict[str, int] = {}
        total = 0
        for name, codes in vocabularies.items():
            self.starts[name] = total
            total += codes
        self.width = width
        self.weight = nn.Parameter(torch.empty(total, width))
        nn.init.normal_(self.weight, std=0.05)

    def forward(self, bags: Bags, starts: Tensor) -> Tensor:
        """Average each bag: B * K bags, starts (K,) int64, each vocabulary's first row -> (B, K, E)."""
        features = len(starts)
        start = starts.repeat(len(bags.lengths) // features)
        codes = bags.codes + torch.repeat_interleave(start, bags.lengths)
        pooled = F.embedding_bag(codes, self.weight, bags.starts, mode="mean", sparse=True)
        return pooled.view(-1, features, self.width)


class Tower(nn.Module):
    """Maps the features of one side to unit vectors; both sides may share the embeddings."""

    starts: Tensor

    def __init__(
        self,
        embeddings: FeatureEmbeddings,
        table: EncodedTable,
        hidden: Sequence[int],
        width: int,
        history: int = 0,
        *,
        ids: bool = True,
    ) -> None:
        """Build the layers.

        `history` counts the features of the items in a query's history, 0 for no history. Without `ids`, the layers do
        not see the id.
        """
        super().__init__()
        self.embeddings = embeddings
        starts = torch.tensor([embeddings.starts[name] for name in table.vocabularies])
        self.register_buffer("starts", starts, persistent=False)
        self.history = history
        seen = [at for at, kind in enumerate(table.kinds) if ids or kind is not Kind.ID]
        self.seen = None if len(seen) == len(table.kinds) else seen
        self.dense_at = {
            name: at for at, (name, kind) in enumerate(zip(table.names, table.kinds, strict=True)) if kind is Kind.DENSE
        }
        self.project = nn.ModuleList(
            nn.Linear(table.dense[name].shape[1], embeddings.width, bias=False) for name in self.dense_at
        )
        sizes = [(len(seen) + history) * embeddings.width, *hidden]
        layers: list[nn.Module] = []
        for size_in, size_out in itertools.pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], width))
        self.skip = nn.Linear(sizes[0], width, bias=False)  # rare values learn faster through a linear path

    def forward(self, bags: Bags, history: Tensor | None = None) -> Tensor:
        """Embed B rows; `history` (B, K', E) averages the features of the items each took: -> (B, D) unit rows."""
        return self.vectors(self.embeddings(bags, self.starts), bags, history)

    def vectors(self, pooled: Tensor, bags: Bags, history: Tensor | None = None) -> Tensor:
        """Map pooled features (B, K, E), and the average features of a history (B, K', E), to unit rows (B, D)."""
        assert (history is not None) == (self.history > 0), "a tower with a history, and no other, needs one"
        pooled = self.features(pooled, bags)
        if self.seen is not None:
            pooled = pooled[:, self.seen]
        if history is not None:
            pooled = torch.cat([pooled, history], 1)
        features = pooled.flatten(1)
        if torch.is_autocast_enabled(features.device.type):  # cast once, not once per path
            features = features.to(torch.get_autocast_dtype(features.device.type))
        return unit((self.layers(features) + self.skip(features)).float())

    def features(self, pooled: Tensor, bags: Bags) -> Tensor:
        """Add the projected vector where a dense feature is present and not hidden; elsewhere its default remains.

        (B, K, E) -> (B, K, E).
        """
        if not self.dense_at:
            return pooled
        code = bags.codes[bags.starts].view(-1, len(self.starts))
        parts = list(pooled.unbind(1))
        for (name, at), project in zip(self.dense_at.items(), self.project, strict=True):
            present = (code[:, at] == PRESENT).unsqueeze(1)
            parts[at] = parts[at] + present * project(bags.dense[name])
        return torch.stack(parts, 1)


class TwoTower(nn.Module):
    """A query tower and an item tower over one table of embeddings."""

    def __init__(self, embeddings: FeatureEmbeddings, query: Tower, item: Tower) -> None:
        """Register the three parts."""
        super().__init__()
        self.embeddings, self.query, self.item = embeddings, query, item


def unit(vectors: Tensor) -> Tensor:
    """Scale rows to length 1: (B, D) -> (B, D); a zero row stays zero."""
    return F.normalize(vectors, dim=1, eps=UNIT_EPS)


def two_tower(
    items: EncodedTable,
    queries: EncodedTable,
    vocabularies: dict[str, int],
    *,
    embedding_width: int,
    hidden: Sequence[int],
    width: int,
    history: bool,
    seed: int,
    query_ids: bool = True,
) -> TwoTower:
    """Build a model whose initial weights depend on `seed` alone; the global generator does not change.

    A query tower without `query_ids` needs another feature of the queries, or a history.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embeddings = FeatureEmbeddings(vocabularies, embedding_width)
        query = Tower(embeddings, queries, hidden, width, len(items.names) if history else 0, ids=query_ids)
        return TwoTower(embeddings, query, Tower(embeddings, items, hidden, width))
