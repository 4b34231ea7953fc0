"""A trained network under other test conditions: another class distribution, corrupted rows, another way to weigh the experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distributed import loop, runs, scores
from distributed.loop import Exchange
from distributed.sampling import Ints, generator
from model import aggregation
from model.augment import augment
from model.expert_losses import expert_priors
from model.network import Network

CUT = 7  # the random stream of the cut, beside those of sampling.py
CELLS = 0.1  # share of table cells that a perturbed view hides, where training hid fewer
RULE = "a test distribution must be uniform, forward-K or backward-K with K of at least 1"


def examine(
    finished: runs.Finished, shards: str, settings: Mapping[str, Any], test: Mapping[str, str], arrays: Mapping[str, Any] | None = None
) -> tuple[dict[str, float], str]:
    """Metrics of the test split under `test` (corrupt, shift, aggregation), the experts' weights among them, and the guard's note.

    Labels of the test split are used for the cut (which is a protocol, not a decision) and for the metrics, for nothing else.
    """
    corrupt = ",".join(filter(None, (str(settings.get("data.corrupt", "")), test.get("corrupt", ""))))
    changed = {**settings, "data.corrupt": corrupt}
    source, val = (
        runs.open_split(runs.Job(shards=shards, settings=s), name, Exchange(), arrays)
        for s, name in ((changed, "test"), (dict(settings), "val"))
    )
    network, config = finished.network, runs.Job(shards=shards, settings=changed).config
    device = next(network.parameters()).device
    kind = loop.precision(config, device)
    seen = scores.score(network, source, device, Exchange(), kind)
    rows = shifted(seen.labels_N.numpy(), np.asarray(network.schema.counts), test.get("shift", ""), config.optim.seed)
    chosen = torch.from_numpy(rows)
    views = None
    if test.get("aggregation") == "stability":
        first, second = (_view(network, source, device, config, k) for k in range(2))
        views = first[chosen], second[chosen]
        views = finished.calibration.scale(views[0]), finished.calibration.scale(views[1])
    held = scores.score(network, val, device, Exchange(), kind)
    combined = aggregation.aggregate(
        test.get("aggregation", "uniform"),
        finished.calibration.scale(seen.logits_NEC[chosen]),
        views=views,
        trained_C=spoken_prior(network),
        validation=aggregation.Validation.of(finished.calibration.scale(held.logits_NEC), held.labels_N),
    )
    picked = scores.Scores(*(getattr(seen, f.name)[chosen] for f in dataclasses.fields(scores.Scores)))
    probabilities_NC = combined.probabilities_NC
    found = scores.measure(picked, network, probabilities_NC, finished.calibration.decide(probabilities_NC))
    found |= {f"expert_weight/{e + 1}": float(w) for e, w in enumerate(combined.weights_E)}
    return {**found, "rows": float(len(rows)), "fell_back": float(combined.fell_back)}, combined.reason


def shifted(labels_N: Ints, counts_C: Ints, kind: str, seed: int) -> Ints:
    """The largest subset of rows with class sizes as `kind` says: forward-K falls by K from the most trained class, backward-K rises."""
    if not kind:
        return np.arange(len(labels_N))
    name, _, ratio = kind.partition("-")
    try:
        steep = float(ratio) if name in ("forward", "backward") else {"uniform": 1.0}[kind]
    except (ValueError, KeyError):
        steep = 0.0
    if not steep >= 1:
        raise ValueError(f"{RULE}; got {kind!r}")
    there_C = np.bincount(labels_N[labels_N >= 0], minlength=len(counts_C))
    order = np.argsort(-counts_C, kind="stable")
    order = order[there_C[order] > 0]
    shape = steep ** (-np.arange(len(order)) / max(len(order) - 1, 1))
    shape = shape[::-1] if name == "backward" else shape
    sizes = np.maximum(np.floor((there_C[order] / shape).min() * shape + 1e-9).astype(int), 1)
    picked = [generator(seed, CUT, int(c)).permutation(np.flatnonzero(labels_N == c))[:n] for c, n in zip(order, sizes)]
    return np.sort(np.concatenate(picked))


def spoken_prior(network: Network) -> Tensor:
    """The class prior that the mean of the experts' logits stands for."""
    priors_EC = expert_priors(network.counts_C.cpu(), network.config.loss, network.config.experts.count)
    return priors_EC.clamp_min(1e-12).log().mean(0).softmax(-1)


@torch.inference_mode()
def _view(network: Network, source: loop.Source, device: torch.device, config: Any, number: int) -> Tensor:
    """Expert logits of one perturbed view of every row: images augmented as in training, table cells hidden."""
    network.eval()
    data = dataclasses.replace(config.data, cell_dropout=max(CELLS, config.data.cell_dropout))
    parts = []
    for step, batch in enumerate(source.batches(0)):
        changed = augment(batch.to(device), data, config.optim.seed * 2 + number, step)
        with loop.autocast(config, device):
            parts.append(network(changed).logits_BEC.float().cpu())
    return torch.cat(parts)
