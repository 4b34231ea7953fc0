"""Long-tailed classification of images and tables: a multi-expert network in plain PyTorch.

Build a network from a schema, train it on tensors, read every loss term:

    from model import Batch, Image, ModelConfig, Network, Schema, Table, loss_terms

    network = Network(schema, ModelConfig())
    outputs = network(batch)
    loss = sum(loss_terms(outputs, batch, network.counts_C, network.config, progress=0.0).values())
"""

from __future__ import annotations

import importlib
from typing import Any

# Loaded on first use: model.config and model.schema must import without torch, so that every `--help` is fast.
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


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"model exports {', '.join(EXPORTS)}; got {name!r}")
    return vars(importlib.import_module(EXPORTS[name]))[name]
