"""The content of a file for torch.export or ONNX, and how far its answers are from the model's."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor

from distributed.inference.exporting.model import ExportedModel, input_names, input_tensors
from distributed.runtime.errors import OptionError
from model.schema import Schema

OUTPUTS = ("probabilities", "weights", "unfamiliar")
MAX_BATCH = 65_536


def trace(model: ExportedModel, sample: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """Returns the model as a program for any number of rows."""
    with torch.no_grad():
        return torch.export.export(
            model, sample, dynamic_shapes=(dynamic_shapes(sample),), strict=False
        )


def dynamic_shapes(sample: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    """Returns that the first dimension of every input is the number of rows."""
    rows = torch.export.Dim("rows", min=1, max=MAX_BATCH)
    return tuple({0: rows} for _ in sample)


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
