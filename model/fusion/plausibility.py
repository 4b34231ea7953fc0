"""Estimates how well the cells of a table row go together.

A small network of its own tells training rows from rows whose cells were drawn independently of
each other. It reads the cells, not the embedding, which keeps only what tells classes apart. No
gradient leaves it, and labels have no part in it.

Legend: B batch, T tables, N numeric columns, K categorical columns, I inputs, Q quantiles.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.schema import Numeric, Table

HIDDEN = 64
EMBEDDING = 4  # size of a category's embedding
LARGEST = 4.0  # of a number's distance from the training range, on a logarithmic scale


class Plausibility(nn.Module):
    """Gives the log-odds that the cells of a row of one table belong together, [B]."""

    edges_NQ: Tensor
    mean_N: Tensor
    spread_N: Tensor
    offsets_K: Tensor
    sizes_K: Tensor

    def __init__(self, table: Table) -> None:
        super().__init__()
        edges = [column_edges(column) for column in table.numeric]
        longest = max((len(each) for each in edges), default=2)
        # A column with fewer quantiles repeats its last one.
        padded = [torch.cat([each, each[-1:].expand(longest - len(each))]) for each in edges]
        edges_NQ = torch.stack(padded) if padded else torch.zeros(0, longest)
        self.register_buffer("edges_NQ", edges_NQ, persistent=False)
        mean = torch.tensor([c.mean for c in table.numeric], dtype=torch.float32)
        self.register_buffer("mean_N", mean, persistent=False)
        spread = torch.tensor([c.divisor for c in table.numeric], dtype=torch.float32)
        self.register_buffer("spread_N", spread, persistent=False)
        sizes = torch.tensor([len(c.vocabulary) + 2 for c in table.categorical], dtype=torch.long)
        self.register_buffer("sizes_K", sizes, persistent=False)
        self.register_buffer("offsets_K", torch.cumsum(sizes, 0) - sizes, persistent=False)
        self.categories = nn.Embedding(max(int(sizes.sum()), 1), EMBEDDING)
        inputs = 5 * len(table.numeric) + EMBEDDING * len(table.categorical)
        self.body = nn.Sequential(
            nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()
        )
        self.score = nn.Linear(HIDDEN, 1)

    def forward(self, numbers_BN: Tensor, categories_BK: Tensor) -> Tensor:
        """Returns the log-odds for numbers (NaN: missing) and category ids (-1: missing)."""
        shifted_BK = (categories_BK.long() + 1).clamp_min(0).minimum(self.sizes_K - 1)
        embedded_BI = self.categories(shifted_BK + self.offsets_K).flatten(1)
        read_BI = torch.cat([self.describe(numbers_BN).flatten(1), embedded_BI], 1)
        log_odds_B: Tensor = self.score(self.body(read_BI)).squeeze(1)
        return log_odds_B

    def describe(self, numbers_BN: Tensor) -> Tensor:
        """Returns facts about every number: its place in the training values and beyond them."""
        missing_BN = numbers_BN.isnan()
        low_N, high_N = self.edges_NQ[:, 0], self.edges_NQ[:, -1]
        x_BN = torch.where(missing_BN, low_N, numbers_BN)
        widths_NQ = self.edges_NQ.diff(dim=1).clamp_min(1e-12)
        # Each interval between two quantiles counts by the share of it that lies below the number.
        share_BNQ = ((x_BN[..., None] - self.edges_NQ[:, :-1]) / widths_NQ).clamp(0, 1)
        rank_BN = 2 * share_BNQ.mean(-1) - 1
        deviation_BN = ((x_BN - self.mean_N) / self.spread_N).clamp(-4, 4)
        under_BN = ((low_N - x_BN) / self.spread_N).clamp_min(0)
        over_BN = ((x_BN - high_N) / self.spread_N).clamp_min(0)
        facts = [rank_BN, deviation_BN, _outside(under_BN), _outside(over_BN)]
        facts = [torch.where(missing_BN, 0.0, fact) for fact in facts]
        return torch.stack([*facts, missing_BN.to(x_BN.dtype)], -1)


def column_edges(column: Numeric) -> Tensor:
    """Returns at least two quantiles of a column over the training rows."""
    quantiles = column.quantiles if len(column.quantiles) > 1 else (column.mean, column.mean)
    return torch.tensor(quantiles, dtype=torch.float32)


def _outside(distance_BN: Tensor) -> Tensor:
    """Returns how far a number is outside of the training range, 0 within it."""
    return torch.log1p(20 * distance_BN).clamp_max(LARGEST)
