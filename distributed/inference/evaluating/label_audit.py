"""Lists training rows whose label may be wrong, and shows them beside their nearest neighbours.

Legend: N training rows, S shown suspects, B rows of a batch, K neighbours, Z fused features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from distributed.inference.options import EvaluateOptions
from distributed.inference.weighing import pick_device
from distributed.raw.rows import FILE, ID
from distributed.reporting.tables import csv_line
from distributed.runtime.errors import OptionError
from distributed.runtime.storage import join, write_file
from distributed.shards.batches import BatchSource, in_storage_order, open_batches
from distributed.shards.index import read_index
from distributed.shards.manifest import read_manifest
from distributed.shards.sampling import IntArray
from distributed.shards.single_rows import read_columns, storage_rows
from distributed.training.checkpoint import Checkpoint
from distributed.training.optimisation.precision import compute_dtype
from distributed.training.scoring import Evaluator
from model.decisions.label_noise import held_out_log_posterior, label_doubts
from model.network import Network

SUSPECTS, PAGE = "suspects.csv", "audit.html"
NEIGHBOURS = 5


@dataclass(frozen=True, kw_only=True)
class LabelAudit:
    """The audit of the labels of a run's training rows.

    suspects: a row for each row whose label is less probable than another class, the most doubtful
        first: id, the file names of its pictures, label, suggested (the most probable other class),
        their probabilities, doubt (the log of their ratio), drop (empty, for the verdict).
    places: of the suspects, in the order of the training rows. rows: that were audited.
    out: the folder of suspects.csv and of the page.
    """

    out: str
    rows: int
    suspects: pd.DataFrame
    places: IntArray

    def text(self) -> str:
        """What the terminal shows."""
        lines = [
            f"labels      {len(self.suspects):,} of {self.rows:,} training rows have a label that "
            "is less probable than another class, by classifiers that have not learned from them"
        ]
        for _, row in self.suspects.head(5).iterrows():
            lines.append(
                f"  {row[ID]}: {row['label']} ({row['p_label']:.2f}), rather "
                f"{row['suggested']} ({row['p_suggested']:.2f})"
            )
        lines.append(f"suspects    {join(self.out, SUSPECTS)}")
        lines.append(
            f"page        {join(self.out, PAGE)} (saves a verdict for ingest.py --drop-ids)"
        )
        return "\n".join(lines)


def audit_labels(
    checkpoint: Checkpoint, options: EvaluateOptions
) -> tuple[LabelAudit, BatchSource]:
    """Audits the labels of the rows that a run was trained on, options.data, and lists suspects.

    Returns the training rows as well.
    """
    check_auditable(checkpoint, options)
    network, config = checkpoint.network, checkpoint.config
    train = open_batches(options.data, "train", config, train=False)
    source = in_storage_order(train, config.inference.batch_size)
    device = pick_device(options.gpus)
    network.to(device)
    evaluator = Evaluator(device, compute_dtype(config, device))
    parts: list[tuple[Tensor, ...]] = []
    with torch.inference_mode():
        for batch, outputs in evaluator.forward(network, source):
            posterior_BC = held_out_log_posterior(outputs, batch.ranks_B, network.counts_C)
            doubts = label_doubts(posterior_BC, batch.labels_B)
            parts.append(
                tuple(
                    values.cpu()
                    for values in (
                        doubts.doubt_B,
                        batch.labels_B,
                        doubts.other_B,
                        doubts.label_B,
                        doubts.other_probability_B,
                    )
                )
            )
    doubt_N, label_N, other_N, p_label_N, p_other_N = (
        torch.cat(column).numpy() for column in zip(*parts, strict=True)
    )
    places = np.argsort(-doubt_N, kind="stable")
    places = places[doubt_N[places] > 0]
    classes = np.asarray(network.schema.classes, dtype=object)
    names = [ID, *(FILE + image.name for image in network.schema.images)]
    identity = pd.DataFrame(columns=[ID])
    if len(places):
        rows = storage_rows(source, places)
        identity = read_columns(read_index(options.data, "train"), rows, names).to_pandas()
    suspects = identity.rename(columns=lambda name: str(name).replace(FILE, "file of ")).assign(
        label=classes[label_N[places]],
        suggested=classes[other_N[places]],
        p_label=p_label_N[places],
        p_suggested=p_other_N[places],
        doubt=doubt_N[places],
        drop="",
    )
    audit = LabelAudit(out=options.audit, rows=len(doubt_N), suspects=suspects, places=places)
    return audit, source


def check_auditable(checkpoint: Checkpoint, options: EvaluateOptions) -> None:
    """Refuses rows that the run was not trained on, and heads that are not cross-fitted."""
    if not isinstance(checkpoint.network, Network):
        raise OptionError(
            f"audit needs a run of one network, this is {checkpoint.network.made_of}:"
            " audit such a run",
            "audit",
        )
    folds = checkpoint.config.fusion.folds
    if folds < 2:
        raise OptionError(
            f"audit needs a run with fusion.folds of at least 2; this one has {folds}: every "
            "classifier has learned from every row",
            "audit",
        )
    own = checkpoint.manifest
    given = read_manifest(options.data)
    same = (own.content, own.rows) == (given.content, given.rows)
    if not same or own.schema != given.schema:
        raise OptionError(
            "audit needs the shards that the run was trained on, as they were; "
            f"{options.data} holds other rows",
            "audit",
            "data",
        )


def write_suspects(audit: LabelAudit) -> None:
    """Writes suspects.csv."""
    frame = audit.suspects
    lines = [csv_line([str(name) for name in frame.columns])]
    for row in frame.itertuples(index=False):
        cells = (f"{cell:.4g}" if isinstance(cell, float) else str(cell or "") for cell in row)
        lines.append(csv_line(cells))
    write_file(join(audit.out, SUSPECTS), "".join(lines).encode())


@torch.inference_mode()
def nearest_neighbours(
    checkpoint: Checkpoint, source: BatchSource, places_S: IntArray, device: torch.device
) -> IntArray:
    """Returns the places of the training rows most like each of these rows, [S, K].

    Rows are alike where the cosine of their fused features is large. No more than the features of
    the S rows and of one batch are in memory.
    """
    network = checkpoint.network
    evaluator = Evaluator(device, compute_dtype(checkpoint.config, device))
    wanted = {int(place): s for s, place in enumerate(places_S)}
    own_SZ: list[Tensor | None] = [None] * len(places_S)
    first = 0
    for batch, outputs in evaluator.forward(network, source):
        for b in range(len(batch)):
            if first + b in wanted:
                own_SZ[wanted[first + b]] = outputs.fused_BZ[b].float()
        first += len(batch)
    features_SZ = torch.nn.functional.normalize(
        torch.stack([features for features in own_SZ if features is not None]), dim=1
    )
    best_SK = torch.full((len(places_S), NEIGHBOURS), -2.0, device=device)
    place_SK = torch.zeros(len(places_S), NEIGHBOURS, dtype=torch.long, device=device)
    own_S1 = torch.from_numpy(places_S).to(device)[:, None]
    first = 0
    for batch, outputs in evaluator.forward(network, source):
        fused_BZ = torch.nn.functional.normalize(outputs.fused_BZ.float(), dim=1)
        place_1B = first + torch.arange(len(batch), device=device)[None]
        cosine_SB = (features_SZ @ fused_BZ.T).masked_fill(own_S1 == place_1B, -2.0)
        both = torch.cat([best_SK, cosine_SB], 1).topk(NEIGHBOURS, 1)
        places = torch.cat([place_SK, place_1B.expand(len(places_S), -1)], 1)
        best_SK, place_SK = both.values, places.gather(1, both.indices)
        first += len(batch)
    return place_SK.cpu().numpy()
