"""A checkpoint of an untrained network: it predicts as fast as a trained one."""

from __future__ import annotations

from distributed.config import Config
from distributed.shards.manifest import read_manifest
from distributed.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.decisions.calibration import Calibration
from model.network import Network


def make_checkpoint(folder: str, shards: str) -> Checkpoint:
    """Returns a checkpoint of the default network, untrained: it takes as long."""
    manifest, config = read_manifest(shards), Config()
    network = Network(manifest.schema, config.model).eval()
    identity = Calibration.identity(config.experts.count, len(manifest.schema.classes))
    save_checkpoint(folder, Checkpoint(network, config, manifest, identity))
    return load_checkpoint(folder)
