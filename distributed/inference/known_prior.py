"""The class prior of the rows, as the user names it: a word, a file, or weights by class.

Legend: C classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distributed.runtime.errors import OptionError
from distributed.runtime.storage import read_file
from distributed.training.operating_points import prior_shares
from model.classifier import Classifier
from model.metrics.names import OPERATING_PRIORS
from model.schema import join_names


def class_prior(prior: str | Mapping[str, object], network: Classifier) -> Tensor:
    """Returns the prior [C] that a word, a JSON file or weights {class: weight} stand for."""
    classes = network.schema.classes
    if isinstance(prior, Mapping):
        return parse_prior(prior, classes)
    named = prior_shares(network)
    return named[prior] if prior in named else read_prior(prior, classes)


def read_prior(path: str, classes: Sequence[str]) -> Tensor:
    """Returns the known class prior [C] that a JSON file holds as one object {class: weight}."""
    try:
        content: object = json.loads(read_file(path), parse_int=float)
    except OSError:
        raise OptionError(
            f"prior must be {', '.join(OPERATING_PRIORS)} or a JSON file that exists and can be "
            f"read; got {path!r}",
            "prior",
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise OptionError(
            f"prior must be a JSON object {{class: weight}}; {path}: {error}", "prior"
        ) from None
    if not isinstance(content, dict) or not content:
        raise OptionError(
            f"prior must be a JSON object {{class: weight}}; {path} holds {type(content).__name__}",
            "prior",
        )
    return parse_prior(content, classes, source=path)


def parse_prior(
    weights: Mapping[str, object], classes: Sequence[str], source: str = "it"
) -> Tensor:
    """Returns class weights as a prior [C] that sums to 1; classes left out have weight 0.

    source: where the weights come from, for the error message.
    """
    unknown = [str(name) for name in weights if name not in classes]
    if unknown:
        raise OptionError(
            f"prior must name classes of the checkpoint; got {join_names(unknown)}; "
            f"valid: {join_names(classes)}",
            "prior",
        )
    checked = {name: _weight(name, weight) for name, weight in weights.items()}
    weights_C = torch.tensor([checked.get(name, 0.0) for name in classes], dtype=torch.float64)
    if float(weights_C.max()) <= 0:
        raise OptionError(
            f"prior must give some class a weight above 0; {source} gives none", "prior"
        )
    weights_C = weights_C / weights_C.max()  # 1e39 is infinite as float32
    return (weights_C / weights_C.sum()).float()


def _weight(name: str, weight: object) -> float:
    if (
        isinstance(weight, bool)
        or not isinstance(weight, int | float)
        or not math.isfinite(weight)
        or weight < 0
    ):
        raise OptionError(
            f"prior must give each class a finite weight of at least 0; {name} has {weight!r}",
            "prior",
        )
    return float(weight)
