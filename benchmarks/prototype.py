"""The defaults against a throw-away prototype, on one core: training time and accuracy.

The prototype is what one would write in an hour: a four-layer CNN (24 to 192 channels), a one-layer
table MLP, concatenation with balanced softmax, flips and shifts, AdamW with one cycle. Both train
on the same decoded rows with as many epochs, batches of the same size and the same precision, an
epoch each in turn, so that a machine whose speed drifts changes both alike. Accuracy is that on
validation; evaluation is not counted, and the test split is not read. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from distributed.config import Config, parse_assignments
from distributed.shards.batches import BatchSource
from distributed.training import loop
from distributed.training.exchange import Exchange
from distributed.training.finish import finish_run
from distributed.training.optimisation.precision import autocast
from distributed.training.optimisation.training_state import StateDict
from distributed.training.run import open_run
from distributed.training.spec import RunSpec
from model.batch import Batch
from model.metrics.metrics import compute_metrics
from model.schema import Schema, Table

CHANNELS = (24, 48, 96, 192)
TABLE_WIDTH = 64
LEARNING_RATE = 3e-3
SHIFT = 4  # pixels, each way


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument(
        "--data",
        required=True,
        metavar="SHARDS",
        help="folder made by ingest.py, with one image and one table",
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="K=V", help="settings of the run"
    )
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    torch.set_num_threads(1)
    job = RunSpec(shards=args.data, settings=parse_assignments(args.set))
    opened = open_run(job, Exchange(), None)
    torch.manual_seed(job.config.optim.seed)
    prototype = Prototype(opened.train, job.config)
    ours: list[float] = []
    theirs: list[float] = []

    def report(metrics: dict[str, float], state: StateDict, scores: object) -> None:
        ours.append(state["seconds"] - sum(ours))
        theirs.append(seconds_of(prototype.epoch))

    run = loop.train_network(opened.network, opened.train, opened.val, job.config, report)
    finished = finish_run(run, opened.train, opened.val, None, history=[])
    reached = compute_metrics(
        prototype.probabilities(opened.val),
        torch.cat([batch.labels_B for batch in opened.val.batches(0)]),
        opened.network.counts_C,
        opened.network.schema.classes,
    )
    pairs = list(zip(ours, theirs, strict=True))
    after_first = pairs[1:] or pairs  # the first epoch grows the memory
    return {
        "benchmark": "prototype",
        "rows": opened.train.rows,
        "parameters": parameter_count(opened.network),
        "prototype_parameters": parameter_count(prototype.network),
        "train_seconds": round(sum(ours), 1),
        "prototype_seconds": round(sum(theirs), 1),
        "ratio": round(statistics.median(a / b for a, b in after_first), 3),
        "target": 2.0,
        "val_balanced_accuracy": round(finished.metrics.val["balanced_accuracy"], 4),
        "prototype_val_balanced_accuracy": round(reached["balanced_accuracy"], 4),
    }


def seconds_of(work: Callable[[], object]) -> float:
    """Returns the seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def parameter_count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


class PrototypeNetwork(nn.Module):
    """A CNN and a table layer, concatenated."""

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        (image,), (self.columns,) = schema.images, schema.tables
        self.category_sizes = [len(c.vocabulary) + 2 for c in self.columns.categorical]
        cells = 2 * len(self.columns.numeric) + sum(self.category_sizes)
        self.image = image_layers(image.channels)
        self.table = nn.Sequential(nn.Linear(cells, TABLE_WIDTH), nn.ReLU())
        self.head = nn.Linear(CHANNELS[-1] + TABLE_WIDTH, len(schema.classes))

    def forward(self, images_BCHW: Tensor, batch: Batch) -> Tensor:
        cells_BF = table_cells(batch, self.columns, self.category_sizes)
        features = [self.image(images_BCHW), self.table(cells_BF)]
        logits_BC: Tensor = self.head(torch.cat(features, 1))
        return logits_BC


def image_layers(inputs: int) -> nn.Sequential:
    """Returns four convolutions with pooling, then the mean over the pixels."""
    layers: list[nn.Module] = []
    for outputs in CHANNELS:
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        inputs = outputs
    image: nn.Sequential = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(
        memory_format=torch.channels_last  # type: ignore[call-overload]  # missing in torch's stubs
    )
    return image


def table_cells(batch: Batch, table: Table, category_sizes: list[int]) -> Tensor:
    """Returns standardised numbers, flags of missing ones, and categories as one-hot vectors."""
    numbers_BN, categories_BK = batch.numbers[table.name], batch.categories[table.name]
    mean_N = torch.tensor([column.mean for column in table.numeric])
    std_N = torch.tensor([column.std for column in table.numeric])
    missing_BN = numbers_BN.isnan()
    cells = [
        torch.where(missing_BN, 0, (numbers_BN - mean_N) / std_N.clamp_min(1e-6)),
        missing_BN.float(),
    ]
    for k, size in enumerate(category_sizes):
        cells.append(one_hot((categories_BK[:, k] + 1).clamp(0, size - 1), size).float())
    return torch.cat(cells, 1)


class Prototype:
    """The prototype's network with its training loop."""

    def __init__(self, source: BatchSource, settings: Config) -> None:
        self.source, self.settings, self.epochs = source, settings, 0
        self.network = PrototypeNetwork(source.schema)
        counts_C = torch.tensor(source.schema.counts, dtype=torch.float32)
        self.log_prior_C = (counts_C / counts_C.sum()).log()
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), LEARNING_RATE, weight_decay=0.05
        )
        steps = settings.optim.epochs * source.steps
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, LEARNING_RATE, total_steps=steps
        )

    def pixels(self, batch: Batch) -> Tensor:
        """Returns the images of a batch, from -0.5 to 0.5."""
        images_BCHW = batch.images[self.source.schema.images[0].name]
        return (images_BCHW.float() / 255 - 0.5).contiguous(memory_format=torch.channels_last)

    def epoch(self) -> None:
        """Trains one epoch."""
        self.network.train()
        for batch in self.source.batches(self.epochs):
            x_BCHW, flipped_B = self.pixels(batch), torch.rand(len(batch)) < 0.5
            x_BCHW[flipped_B] = x_BCHW[flipped_B].flip(-1)
            down, right = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
            with autocast(self.settings, torch.device("cpu")):
                logits_BC = self.network(x_BCHW.roll((down, right), (2, 3)), batch)
            loss = cross_entropy(logits_BC.float() + self.log_prior_C, batch.labels_B)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            self.schedule.step()
        self.epochs += 1

    def probabilities(self, source: BatchSource) -> Tensor:
        """Returns the class probabilities of every row of a source."""
        self.network.eval()
        with torch.inference_mode(), autocast(self.settings, torch.device("cpu")):
            logits = [self.network(self.pixels(batch), batch) for batch in source.batches(0)]
            return torch.cat(logits).float().softmax(1)


if __name__ == "__main__":
    main()
