"""The nested baselines of a search and the label of its starting point."""

from __future__ import annotations

from typing import Any

# The nested baselines: what the method must beat to be worth its complexity.
BASELINES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "concatenation": {"fusion.kind": "uniform"},
    "one expert": {"experts.count": 1},
    "plain softmax": {
        "loss.name": "prior",
        "loss.average_prior_strength": 0.0,
        "loss.spread_of_prior_strength": 0.0,
        "loss.margin": 0.0,
        "loss.drw": 0.0,
    },
}


STARTING_POINT = (
    "starting point"  # the label of "defaults" where --config or --set have changed them
)
