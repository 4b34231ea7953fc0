"""Writes a checkpoint as one file that runs without this project: torch.export or ONNX.

The file holds the network, the standardisation of numbers and pixels, the rejection of unfamiliar
modalities, the calibration and the prior. Left outside is what turns files into numbers: pictures
are resized to the stated size and categories become ids, as the description beside it says.

Legend: B rows, M modalities, E experts, C classes.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distributed.inference.known_prior import class_prior
from distributed.inference.options import ExportOptions
from distributed.inference.weighing import FixedAggregation
from distributed.runtime.errors import Failure, OptionError
from distributed.runtime.option_values import check_options
from distributed.runtime.storage import write_file
from distributed.training.checkpoint import Checkpoint, load_checkpoint
from distributed.training.priors import mean_class_prior
from model.batch import Batch
from model.learning.posthoc import move_prior
from model.schema import Schema

OUTPUTS = ("probabilities", "weights", "unfamiliar")
TOLERANCE = 1e-4  # between the file and the checkpoint, of a probability
ENDINGS = {"torch": ".pt2", "onnx": ".onnx"}
MAX_BATCH = 65_536
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


class ExportedModel(nn.Module):
    """The network with all that is applied after it, on plain tensors in a fixed order."""

    temperatures_E: Tensor
    shift_C: Tensor

    def __init__(self, checkpoint: Checkpoint, prior_C: Tensor | None) -> None:
        super().__init__()
        self.network = checkpoint.network.eval()
        calibration = checkpoint.calibration
        self.register_buffer("temperatures_E", calibration.temperatures_E * calibration.temperature)
        trained_C = mean_class_prior(checkpoint)
        shift_C = torch.zeros_like(trained_C)
        if prior_C is not None:
            zero_1C = torch.zeros(1, len(trained_C))
            shift_C = move_prior(zero_1C, trained_C, prior_C)[0]
        self.register_buffer("shift_C", shift_C)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns probabilities [B, C], fusion weights [B, M] and unfamiliar modalities [B, M].

        tensors: those of `input_tensors`, in its order.
        """
        schema, present_BM = self.network.schema, tensors[-1]
        given = iter(tensors)
        unlabelled_B = torch.full_like(present_BM[:, 0], -1, dtype=torch.long)
        batch = Batch(
            images={image.name: next(given) for image in schema.images},
            numbers={table.name: next(given) for table in schema.tables},
            categories={table.name: next(given) for table in schema.tables},
            present_BM=present_BM,
            labels_B=unlabelled_B,
            ranks_B=unlabelled_B + 1,
        )
        outputs = self.network(batch)
        logits_BC = (outputs.logits_BEC / self.temperatures_E[:, None]).mean(1) + self.shift_C
        return logits_BC.softmax(1), outputs.weights_BM, outputs.unfamiliar_BM


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
    sample = input_tensors(schema, SAMPLE)
    with torch.no_grad():
        program = torch.export.export(
            model, sample, dynamic_shapes=(dynamic_shapes(sample),), strict=False
        )
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


def input_names(schema: Schema) -> list[str]:
    """Returns the names of the inputs, in their order."""
    return [
        *(f"image_{image.name}" for image in schema.images),
        *(f"numbers_{table.name}" for table in schema.tables),
        *(f"categories_{table.name}" for table in schema.tables),
        "present",
    ]


def input_tensors(schema: Schema, rows: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Returns random inputs; some rows lack cells, some a whole modality."""
    generator = torch.Generator().manual_seed(seed)
    images = [
        torch.randint(
            0, 256, (rows, i.channels, i.height, i.width), dtype=torch.uint8, generator=generator
        )
        for i in schema.images
    ]
    numbers, categories = [], []
    for table in schema.tables:
        scale = torch.tensor([c.divisor for c in table.numeric])
        mean = torch.tensor([c.mean for c in table.numeric])
        cells = torch.randn(rows, len(table.numeric), generator=generator) * scale + mean
        cells[torch.rand(cells.shape, generator=generator) < 0.2] = torch.nan
        numbers.append(cells)
        ids = torch.rand(rows, len(table.categorical), generator=generator)
        sizes = torch.tensor([len(c.vocabulary) + 2 for c in table.categorical])
        categories.append((ids * sizes).long() - 1)  # -1 is missing, the last one unseen
    present = torch.ones(rows, len(schema.modalities), dtype=torch.bool)
    for m in range(len(schema.modalities)):
        present[m % rows, m] = len(schema.modalities) == 1
    return (*images, *numbers, *categories, present)


def dynamic_shapes(sample: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    """Returns that the first dimension of every input is the number of rows."""
    rows = torch.export.Dim("rows", min=1, max=MAX_BATCH)
    return tuple({0: rows} for _ in sample)


def largest_difference(model: ExportedModel, answers: list[tuple[Tensor, ...]]) -> float:
    """Returns the largest difference of answers to `input_tensors` of several sizes and seeds."""
    schema = model.network.schema
    differences = []
    for seed, given in enumerate(answers):
        with torch.no_grad():
            wanted = model(*input_tensors(schema, len(given[0]), seed))
        differences += [
            float((a.float() - b.float()).abs().max()) for a, b in zip(given, wanted, strict=True)
        ]
    return max(differences)


def to_torch(
    program: torch.export.ExportedProgram, model: ExportedModel, schema: Schema
) -> tuple[bytes, float]:
    """Returns the content of a .pt2 file, and how far it is from the checkpoint."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    with torch.no_grad():
        sizes = enumerate((3, 1, 17))
        answers = [loaded(*input_tensors(schema, rows, seed)) for seed, rows in sizes]
    return buffer.getvalue(), largest_difference(model, answers)


def to_onnx(
    program: torch.export.ExportedProgram, model: ExportedModel, schema: Schema
) -> tuple[bytes, float]:
    """Returns the content of an .onnx file, and how far it is from the checkpoint."""
    try:
        import onnxruntime  # an optional package, as is onnxscript, which torch.onnx needs

        converted = torch.onnx.export(
            program,
            input_names=input_names(schema),
            output_names=list(OUTPUTS),
            dynamo=True,
            verbose=False,
        )
    except ImportError as error:
        raise OptionError(
            "format onnx needs the extra `onnx`: pip install onnx onnxscript onnxruntime "
            f"({error})",
            "format",
        ) from None
    assert converted is not None
    content = converted.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    answers = []
    for seed, rows in enumerate((3, 1, 17)):
        tensors = input_tensors(schema, rows, seed)
        feed = {i.name: t.numpy() for i, t in zip(session.get_inputs(), tensors, strict=True)}
        answers.append(tuple(torch.from_numpy(given) for given in session.run(None, feed)))
    return content, largest_difference(model, answers)


def compare_with_predictions(
    checkpoint: Checkpoint, model: ExportedModel, prior_C: Tensor | None
) -> None:
    """Raises Failure where the exported module is not what predict.py computes."""
    schema = checkpoint.network.schema
    tensors = input_tensors(schema, SAMPLE, 9)
    shares = () if prior_C is None else tuple(prior_C.tolist())
    given = iter(tensors)
    batch = Batch(
        images={image.name: next(given) for image in schema.images},
        numbers={table.name: next(given) for table in schema.tables},
        categories={table.name: next(given) for table in schema.tables},
        present_BM=tensors[-1],
        labels_B=torch.full((SAMPLE,), -1),
        ranks_B=torch.zeros(SAMPLE, dtype=torch.long),
    )
    with torch.no_grad():
        logits_BEC = checkpoint.network(batch).logits_BEC
        wanted_BC = FixedAggregation.uniform(checkpoint, shares).probabilities(
            checkpoint, logits_BEC, mean_class_prior(checkpoint)
        )
        difference = float((model(*tensors)[0] - wanted_BC).abs().max())
    if difference > TOLERANCE:
        raise Failure(f"the exported probabilities differ by {difference:.1e} from predict.py")


def describe(checkpoint: Checkpoint, options: ExportOptions) -> dict[str, object]:
    """Returns what a program must know to call the file, as JSON can hold it."""
    schema = checkpoint.network.schema
    prepare = checkpoint.manifest.prepare
    columns = {image["name"]: image for image in prepare.get("images", ())}
    inputs: list[dict[str, object]] = []
    for image in schema.images:
        inputs.append(
            {
                "name": f"image_{image.name}",
                "type": "uint8",
                "shape": ["rows", image.channels, image.height, image.width],
                "preparation": columns.get(image.name, {}),
            }
        )
    for table in schema.tables:
        inputs.append(
            {
                "name": f"numbers_{table.name}",
                "type": "float32, NaN where missing",
                "shape": ["rows", len(table.numeric)],
                "columns": [column.name for column in table.numeric],
            }
        )
    for table in schema.tables:
        inputs.append(
            {
                "name": f"categories_{table.name}",
                "type": "int64: the place in the vocabulary, -1 missing, its length unseen",
                "shape": ["rows", len(table.categorical)],
                "columns": {column.name: column.vocabulary for column in table.categorical},
            }
        )
    inputs.append(
        {
            "name": "present",
            "type": "bool: whether the row has the modality",
            "shape": ["rows", len(schema.modalities)],
            "columns": schema.modalities,
        }
    )
    return {
        "checkpoint": options.checkpoint,
        "format": options.format,
        "prior": options.prior,
        "classes": schema.classes,
        "inputs": inputs,
        "outputs": {
            "probabilities": "[rows, classes], calibrated",
            "weights": "[rows, modalities], in the fusion",
            "unfamiliar": "[rows, modalities], unlike anything in training",
        },
    }
