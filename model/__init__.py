"""Long-tailed classification of images and tables: a multi-expert network in plain PyTorch.

A network is built from a description of the data set and trained on tensors:

    import torch
    from model import Batch, Image, ModelConfig, Network, Numeric, Schema, Table, loss_terms

    schema = Schema(
        images=(Image(name="photo", height=16, width=16),),
        tables=(Table(name="readings", numeric=(Numeric(name="heat"), Numeric(name="flow"))),),
        classes=("good", "scratched", "broken"),
        counts=(40, 16, 8),  # training rows of each class
    )
    labels_B = torch.tensor([0] * 40 + [1] * 16 + [2] * 8)
    batch = Batch(
        images={"photo": torch.rand(64, 3, 16, 16)},
        numbers={"readings": torch.randn(64, 2) + labels_B[:, None]},
        categories={"readings": torch.zeros(64, 0, dtype=torch.int64)},
        present_BM=torch.ones(64, 2, dtype=torch.bool),
        labels_B=labels_B,
        ranks_B=torch.arange(64),
    )
    network = Network(schema, ModelConfig())
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for step in range(10):
        outputs = network(batch)
        terms = loss_terms(outputs, batch, network.counts_C, network.config, progress=step / 10)
        loss = sum(terms.values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        network.update_running_confidence(outputs, batch)
        print(f"step {step}: loss {loss:.3f}")

Read first: network.py (one forward pass), learning/losses.py (the terms of the loss), schema.py.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.batch import Batch as Batch
    from model.config import ModelConfig as ModelConfig
    from model.decisions.calibration import Calibration as Calibration
    from model.learning.losses import loss_terms as loss_terms
    from model.network import Network as Network
    from model.outputs import Outputs as Outputs
    from model.schema import Categorical as Categorical
    from model.schema import Image as Image
    from model.schema import Numeric as Numeric
    from model.schema import Schema as Schema
    from model.schema import Table as Table

# Public names and their modules, which are loaded on first use: model.config and model.schema must
# import without torch, so that `--help` of every command is fast.
EXPORTS = {
    "Batch": "model.batch",
    "Calibration": "model.decisions.calibration",
    "Categorical": "model.schema",
    "Image": "model.schema",
    "ModelConfig": "model.config",
    "Network": "model.network",
    "Numeric": "model.schema",
    "Outputs": "model.outputs",
    "Schema": "model.schema",
    "Table": "model.schema",
    "loss_terms": "model.learning.losses",
}
__all__ = list(EXPORTS)


def __getattr__(name: str) -> object:
    """Returns a public name from its module."""
    if name not in EXPORTS:
        raise AttributeError(f"model exports {', '.join(EXPORTS)}; got {name!r}")
    return vars(importlib.import_module(EXPORTS[name]))[name]
