"""What a program must know to call an exported file."""

from __future__ import annotations

from distributed.inference.options import ExportOptions
from distributed.training.checkpoint import Checkpoint


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
