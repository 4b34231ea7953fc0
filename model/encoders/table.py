"""The table encoder: numbers and categories of one table row in, one embedding out.

Legend: B batch, N numeric columns, K categorical columns, F all columns,
E embedding of a column, D embedding of the row.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from model.config import TableConfig
from model.encoders.rtdl import load_rtdl, load_tabm
from model.encoders.standardise import Standardise
from model.schema import MAX_DEVIATIONS, Numeric, Table

SUBMODELS = 16  # of table.encoder=tabm


def bin_edges(column: Numeric) -> Tensor:
    """Returns the edges of the piecewise-linear embedding, standardised.

    They are increasing and distinct, also in float32, and at least two.
    """
    quantiles = torch.tensor(column.quantiles, dtype=torch.float64)
    edges = torch.unique((quantiles - column.mean) / column.divisor).float().unique()
    return edges if len(edges) >= 2 else torch.tensor([-1.0, 1.0])


class NumberEmbedding(nn.Module):
    """Embeds numeric columns as [B, N, size].

    Numbers are standardised. A missing one is replaced by a learned number, and a learned vector is
    added to its embedding.
    """

    mean_N: Tensor
    std_N: Tensor
    low_N: Tensor
    high_N: Tensor

    def __init__(self, columns: tuple[Numeric, ...], kind: str, size: int) -> None:
        super().__init__()
        self.register_buffer("mean_N", torch.tensor([c.mean for c in columns], dtype=torch.float32))
        self.register_buffer(
            "std_N", torch.tensor([c.divisor for c in columns], dtype=torch.float32)
        )
        self.fill_N = nn.Parameter(torch.zeros(len(columns)))
        self.missing_ND = nn.Parameter(torch.zeros(len(columns), size))
        self.embed = _number_embedding(columns, kind, size)
        # An outlier of a new table must not swamp the batch. Beyond the outermost bins, which may
        # be narrow, there are no training values.
        edges = [torch.tensor([-MAX_DEVIATIONS, MAX_DEVIATIONS])] * len(columns)
        if kind == "piecewise":
            edges = [bin_edges(c) for c in columns]
        self.register_buffer("low_N", torch.stack([e[0] for e in edges]), persistent=False)
        self.register_buffer("high_N", torch.stack([e[-1] for e in edges]), persistent=False)

    def forward(self, x_BN: Tensor) -> Tensor:
        """Returns the embeddings of numbers, NaN where missing."""
        missing_BN = torch.isnan(x_BN)
        z_BN = ((x_BN - self.mean_N) / self.std_N).maximum(self.low_N).minimum(self.high_N)
        z_BN = torch.where(missing_BN, self.fill_N, z_BN)
        embedding_BND: Tensor = self.embed(z_BN) + missing_BN[..., None] * self.missing_ND
        return embedding_BND


def _number_embedding(columns: tuple[Numeric, ...], kind: str, size: int) -> nn.Module:
    """Returns the embedding of standardised numbers by table.numeric_embedding."""
    embedding: nn.Module
    rtdl = load_rtdl()
    if kind == "piecewise":
        edges = [bin_edges(c) for c in columns]
        with warnings.catch_warnings():
            # A column with a single bin is embedded linearly, as it should be.
            warnings.filterwarnings("ignore", message=".*just two bin edges")
            embedding = rtdl.PiecewiseLinearEmbeddings(edges, size, activation=False, version="B")
    elif kind == "periodic":
        embedding = rtdl.PeriodicEmbeddings(len(columns), size, lite=False)
    else:
        embedding = rtdl.LinearEmbeddings(len(columns), size)
    return embedding


class CategoryEmbedding(nn.Module):
    """Embeds categorical columns as [B, K, size].

    One lookup table holds the values of all columns; each column also has entries of its own for a
    missing value and for one that training did not contain.
    """

    offsets_K: Tensor
    sizes_K: Tensor

    def __init__(self, vocabularies: list[int], size: int) -> None:
        super().__init__()
        sizes = torch.tensor([v + 2 for v in vocabularies])
        self.register_buffer("offsets_K", torch.cumsum(sizes, 0) - sizes)
        self.register_buffer("sizes_K", sizes)
        self.table = nn.Embedding(int(sizes.sum()), size)
        nn.init.normal_(self.table.weight, std=size**-0.5)
        with torch.no_grad():  # the entries for unseen values are rarely trained: they add nothing
            self.table.weight[self.offsets_K + self.sizes_K - 1] = 0

    def forward(self, ids_BK: Tensor) -> Tensor:
        """Returns the embeddings of ids, -1 where missing and len(vocabulary) where unseen."""
        shifted_BK = (ids_BK.long() + 1).clamp_min(0).minimum(self.sizes_K - 1)
        embedding_BKD: Tensor = self.table(shifted_BK + self.offsets_K)
        return embedding_BKD


class ResidualMLP(nn.Module):
    """A residual block: x + W2 relu(W1 norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.body(x)
        return x + change


def mlp(columns: int, config: TableConfig, dim: int) -> nn.Sequential:
    """Returns the residual network of table.encoder=mlp."""
    return nn.Sequential(
        nn.Linear(columns * config.embedding_size, config.width),
        *(ResidualMLP(config.width) for _ in range(config.blocks)),
        nn.ReLU(),
        nn.Linear(config.width, dim),
    )


class TabM(nn.Module):
    """The network of table.encoder=tabm: SUBMODELS networks that share most of their weights.

    After Gorishniy et al. (ICLR 2025), by the package tabm. The mean of their outputs is the
    embedding, while the networks of the article have a loss each.
    """

    def __init__(self, columns: int, config: TableConfig, dim: int) -> None:
        super().__init__()
        tabm, size = load_tabm(), config.embedding_size
        self.view = tabm.EnsembleView(k=SUBMODELS)
        self.body = tabm.MLPBackboneBatchEnsemble(
            d_in=columns * size,
            n_blocks=max(1, config.blocks),
            d_block=config.width,
            dropout=0.0,  # there is no randomness inside the network
            k=SUBMODELS,
            tabm_init=True,
            scaling_init="normal",
            start_scaling_init_chunks=[size] * columns,  # one factor for all of a column
        )
        self.out = tabm.LinearEnsemble(config.width, dim, k=SUBMODELS)

    def forward(self, x_BI: Tensor) -> Tensor:
        embedding_BD: Tensor = self.out(self.body(self.view(x_BI))).mean(1)
        return embedding_BD


class TableEncoder(nn.Module):
    """Encodes the numbers (NaN: missing) and category ids (-1: missing) of a table as [B, D].

    used_F: factors of the columns' embeddings; 0 leaves a column out.
    """

    used_F: Tensor

    def __init__(self, table: Table, config: TableConfig, dim: int) -> None:
        super().__init__()
        if not table.numeric and not table.categorical:
            raise ValueError(
                f"a table modality must have at least one column; got {table.name!r} with none"
            )
        self.numbers = (
            NumberEmbedding(table.numeric, config.numeric_embedding, config.embedding_size)
            if table.numeric
            else None
        )
        self.categories = (
            CategoryEmbedding([len(c.vocabulary) for c in table.categorical], config.embedding_size)
            if table.categorical
            else None
        )
        columns = len(table.numeric) + len(table.categorical)
        network = TabM if config.encoder == "tabm" else mlp
        self.body: nn.Module = network(columns, config, dim)
        self.norm = Standardise(dim)
        self.register_buffer("used_F", torch.ones(columns))

    def use_columns(self, used_F: Tensor) -> None:
        """Leaves out the columns for which this is False; the others count more in turn.

        The first layer then gets as much input as if it had been made for these columns alone.
        """
        self.used_F.copy_(used_F * (len(used_F) / used_F.sum()).sqrt())

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        state.setdefault(f"{prefix}used_F", torch.ones_like(self.used_F))  # older ones lack it
        super()._load_from_state_dict(state, prefix, *args)

    def forward(self, numbers_BN: Tensor, categories_BK: Tensor, present_B: Tensor) -> Tensor:
        """Returns the embeddings; the content of an absent table has no influence."""
        parts: list[Tensor] = []
        if self.numbers is not None:
            parts.append(self.numbers(torch.where(present_B[:, None], numbers_BN, torch.nan)))
        if self.categories is not None:
            parts.append(self.categories(torch.where(present_B[:, None], categories_BK, -1)))
        columns_BFE = torch.cat(parts, 1) * self.used_F[:, None]
        embedding_BD: Tensor = self.norm(self.body(columns_BFE.flatten(1)), present_B)
        return embedding_BD
