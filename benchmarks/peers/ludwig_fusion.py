"""Ludwig on pictures and table: a convolutional encoder, encoders of every column, concatenation.

plain: as it is, stopped by the loss on the validation rows. class-weights: each class weighted by
the inverse of its training rows in the loss, stopped by the mean recall of the classes. Ludwig's
oversampling is for two classes only. Its encoders with a past are those of torchvision, whose
weights have to be downloaded; so that no network is needed, this one starts from chance.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from ludwig.api import LudwigModel

if __package__ in (None, ""):
    # At the end, so that no folder here is taken for a package of the environment.
    sys.path[0:1] = []
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.peers import rows

SPLITS = ("train", "val", "test")  # Ludwig's numbers of a fixed split: 0, 1, 2
SPLIT = "split"
EPOCHS, PATIENCE = 40, 8
LARGE = 64  # pixels of the shorter side
VARIANTS = ("plain", "class-weights")


def main() -> None:
    args = rows.arguments(__doc__)
    description = rows.describe(args.tables)
    tables = [rows.read(args.tables, split) for split in SPLITS]
    data = pd.concat([t.assign(**{SPLIT: k}) for k, t in enumerate(tables)], ignore_index=True)
    config = configure(description, args.variant)
    model = LudwigModel(config)
    model.train(
        dataset=data[data[SPLIT] < 2],
        random_seed=args.seed,
        output_directory=str(args.out / "results"),
        skip_save_processed_input=True,
        skip_save_progress=True,
        skip_save_log=True,
    )
    answers, _ = model.predict(dataset=tables[2], output_directory=str(args.out / "results"))
    start = f"{rows.LABEL}_probabilities_"
    found = [name for name in answers if name.startswith(start)]
    probabilities = answers[found].rename(columns=lambda name: name.removeprefix(start))
    rows.write_answers(args.out, probabilities, description, config)


def configure(description: dict[str, Any], variant: str) -> dict[str, Any]:
    """Returns Ludwig's configuration."""
    inputs: list[dict[str, Any]] = [
        {
            "name": name,
            "type": "number",
            "preprocessing": {
                "missing_value_strategy": "fill_with_mean",
                "normalization": "zscore",
            },
        }
        for name in description["numeric"]
    ]
    inputs += [
        {
            "name": name,
            "type": "category",
            "preprocessing": {
                "missing_value_strategy": "fill_with_const",
                "fill_value": "missing",
            },
        }
        for name in description["categorical"]
    ]
    inputs += [picture(image) for image in description["images"]]
    output: dict[str, Any] = {"name": rows.LABEL, "type": "category"}
    if variant == "class-weights":
        output["loss"] = {"class_weights": rows.balancing_weights(description)}
    return {
        "input_features": inputs,
        "output_features": [output],
        "combiner": {"type": "concat", "num_fc_layers": 1, "output_size": 128},
        "preprocessing": {"split": {"type": "fixed", "column": SPLIT}},
        "trainer": {
            "epochs": EPOCHS,
            "early_stop": PATIENCE,
            "batch_size": 64,
            "learning_rate": 0.001,
            # Of a category, what Ludwig calls accuracy is the mean recall of the classes.
            "validation_field": rows.LABEL,
            "validation_metric": "loss" if variant == "plain" else "accuracy",
        },
    }


def picture(image: dict[str, Any]) -> dict[str, Any]:
    """Returns an image feature, whose layers halve the shorter side down to 6 to 11 pixels.

    The first layer of large pictures moves by two pixels, which halves the time of a training.
    """
    shorter = min(image["height"], image["width"])
    layers: list[dict[str, Any]] = []
    if shorter >= LARGE:
        layers.append({"out_channels": 32, "stride": 2, "padding": 1, "norm": "batch"})
        shorter //= 4
    while shorter >= 12:
        layers.append(
            {
                "out_channels": min(32 * 2 ** len(layers), 128),
                "padding": "same",
                "norm": "batch",
            }
        )
        shorter //= 2
    return {
        "name": image["name"],
        "type": "image",
        "preprocessing": {
            "height": image["height"],
            "width": image["width"],
            "num_channels": image["channels"],
        },
        "encoder": {"type": "stacked_cnn", "conv_layers": layers, "output_size": 128},
        "augmentation": [{"type": "random_horizontal_flip"}],
    }


if __name__ == "__main__":
    main()
