"""Writes a checkpoint as one file that runs without this project: torch.export or ONNX.

The file holds the network, the standardisation of numbers and pixels, the rejection of unfamiliar
modalities, the calibration and the prior. Left outside is what turns files into numbers: pictures
are resized to the stated size and categories become ids, as the description beside it says.

Legend: B rows, E experts, C classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from torch import Tensor

from distributed.inference.exporting.description import describe
from distributed.inference.exporting.formats import to_onnx, to_torch, trace
from distributed.inference.exporting.model import ExportedModel, batch_of, input_tensors
from distributed.inference.known_prior import class_prior
from distributed.inference.options import ExportOptions
from distributed.inference.weighing import FixedAggregation
from distributed.runtime.errors import Failure, OptionError
from distributed.runtime.option_values import check_options
from distributed.runtime.storage import write_file
from distributed.training.checkpoint import Checkpoint, load_checkpoint
from distributed.training.priors import mean_class_prior

TOLERANCE = 1e-4  # between the file and the checkpoint, of a probability
ENDINGS = {"torch": ".pt2", "onnx": ".onnx"}
SAMPLE = 5  # rows that are compared


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """An exported file. difference: the largest one to the checkpoint, over all outputs."""

    out: str
    description: str
    difference: float

    def show(self) -> None:
        """Prints what was written."""
        print(f"written     {self.out}")
        print(f"inputs      {self.description}")
        print(f"difference  {self.difference:.1e} at most to the checkpoint")


def export(options: ExportOptions) -> ExportResult:
    """Writes the file and its description, after comparing it with the checkpoint."""
    options = check_options(ExportOptions, options)
    ending = ENDINGS[options.format]
    if not options.out.endswith(ending):
        raise OptionError(
            f"out must end with {ending} for format {options.format}; got {options.out!r}",
            *("out", "format"),
        )
    checkpoint = load_checkpoint(options.checkpoint)
    if options.trust_unfamiliar:
        checkpoint.network.accept_all_modalities()
    prior_C = class_prior(options.prior, checkpoint.network) if options.prior else None
    model = ExportedModel(checkpoint, prior_C).eval()
    schema = checkpoint.network.schema
    program = trace(model, input_tensors(schema, SAMPLE))
    if options.format == "onnx":
        content, difference = to_onnx(program, model, schema)
    else:
        content, difference = to_torch(program, model, schema)
    if difference > TOLERANCE:
        raise Failure(f"the exported file differs by {difference:.1e} from the checkpoint")
    compare_with_predictions(checkpoint, model, prior_C)
    description = options.out.removesuffix(ending) + ".json"
    write_file(options.out, content)
    write_file(description, json.dumps(describe(checkpoint, options), indent=1).encode())
    return ExportResult(out=options.out, description=description, difference=difference)


def compare_with_predictions(
    checkpoint: Checkpoint, model: ExportedModel, prior_C: Tensor | None
) -> None:
    """Raises Failure where the exported module is not what predict.py computes."""
    schema = checkpoint.network.schema
    tensors = input_tensors(schema, SAMPLE, 9)
    shares = () if prior_C is None else tuple(prior_C.tolist())
    with torch.no_grad():
        logits_BEC = checkpoint.network(batch_of(schema, tensors)).logits_BEC
        wanted_BC = FixedAggregation.uniform(checkpoint, shares).probabilities(
            checkpoint, logits_BEC, mean_class_prior(checkpoint)
        )
        difference = float((model(*tensors)[0] - wanted_BC).abs().max())
    if difference > TOLERANCE:
        raise Failure(f"the exported probabilities differ by {difference:.1e} from predict.py")
