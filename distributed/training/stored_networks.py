"""How a checkpoint holds its network, or the networks of an ensemble: plain values and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from distributed.config import Config, apply_changes, flatten
from model.boosted import BoostedTables, restore_boosted
from model.classifier import Classifier
from model.decisions.calibration import Calibration
from model.ensemble import Ensemble
from model.member import Member
from model.network import Network
from model.schema import Schema, from_dict, to_dict

Values = dict[str, Any]  # as JSON can hold them
Weights = dict[str, Any]  # tensors in dictionaries and lists, as torch saves and loads them


def describe(classifier: Classifier, config: Config) -> Values:
    """Returns the plain values by which `restore` builds the classifier."""
    values: Values = {"config": flatten(config), "schema": to_dict(classifier.schema)}
    if isinstance(classifier, BoostedTables):
        values["depth"] = classifier.depth
    if isinstance(classifier, Ensemble):
        values["picks"] = list(classifier.picks)
        values["members"] = [
            {
                **describe(member.network, apply_changes(Config(), member.settings)),
                "name": member.name,
                "config": dict(member.settings),
            }
            for member in classifier.members
        ]
    return values


def weights_of(classifier: Classifier) -> Weights:
    """Returns all weights on the CPU; those that members of an ensemble share are held once."""
    if not isinstance(classifier, Ensemble):
        return {"network": _on_cpu(classifier.state_dict())}
    known: dict[bytes, Tensor] = {}
    members = [
        {
            "network": {
                name: known.setdefault(_digest(tensor), tensor)
                for name, tensor in _on_cpu(member.network.state_dict()).items()
            },
            "calibration": member.calibration.state_dict(),
            "prior": member.prior_C.cpu(),
        }
        for member in classifier.members
    ]
    return {"members": members, "prior": classifier.prior_C.cpu()}


def restore(values: Mapping[str, Any], weights: Mapping[str, Any], config: Config) -> Classifier:
    """Returns the classifier of these values and weights, ready to predict."""
    schema: Schema = from_dict(values["schema"])
    if "depth" in values:
        return restore_boosted(schema, weights["network"], values["depth"]).eval()
    if "members" not in values:
        network = Network(schema, config.model, pretrained=False)
        network.load_state_dict(weights["network"])
        return network.eval()
    members = []
    for described, saved in zip(values["members"], weights["members"], strict=True):
        settings = described["config"]
        members.append(
            Member(
                network=restore(described, saved, apply_changes(Config(), settings)),
                calibration=Calibration.from_state_dict(saved["calibration"]),
                prior_C=saved["prior"],
                name=described["name"],
                settings=settings,
            )
        )
    return Ensemble(schema, members, values["picks"], weights["prior"]).eval()


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def _digest(tensor: Tensor) -> bytes:
    """Returns a digest of a tensor's type, shape and numbers."""
    plain = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    numbers = np.ascontiguousarray(tensor.detach().numpy()).tobytes()
    return hashlib.blake2b(plain + numbers, digest_size=16).digest()
