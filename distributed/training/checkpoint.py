"""What a run leaves on disk: resumable states while it trains, one self-contained checkpoint at its end (weights_only=True)."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distributed.runtime.storage import read_file, write_file
from distributed.training.states import WEIGHTS_FORMAT

if TYPE_CHECKING:
    from distributed.config import Config
    from distributed.shards.manifest import Manifest
    from model.decisions.calibration import Calibration
    from model.decisions.guard import ValidationRows
    from model.fusion.cross_modal import CrossModalModel
    from model.network import Network


@dataclass
class Checkpoint:
    """All that evaluation and prediction need."""

    network: Network
    config: Config
    manifest: Manifest
    calibration: Calibration
    validation: ValidationRows | None = (
        None  # labelled rows as raw expert logits: what the guards of test-time aggregation look at
    )
    cross_modal: CrossModalModel | None = (
        None  # tells whether the modalities of new rows still belong together
    )


def save_checkpoint(folder: str, checkpoint: Checkpoint) -> None:
    """Writes `folder`/model.pt and a readable info.json."""
    import torch

    from distributed.config import flatten
    from model.schema import to_dict

    plain = {
        "format": WEIGHTS_FORMAT,
        "config": flatten(checkpoint.config),
        "schema": to_dict(checkpoint.network.schema),
        "manifest": {**vars(checkpoint.manifest), "schema": to_dict(checkpoint.manifest.schema)},
    }
    weights = {
        name: tensor.detach().cpu() for name, tensor in checkpoint.network.state_dict().items()
    }
    buffer = io.BytesIO()
    known = {
        "calibration": checkpoint.calibration,
        "validation": checkpoint.validation,
        "cross_modal": checkpoint.cross_modal,
    }
    held = {name: one.state_dict() for name, one in known.items() if one is not None}
    torch.save({"plain": json.dumps(plain), "network": weights, **held}, buffer)
    folder = folder.rstrip("/")
    write_file(f"{folder}/model.pt", buffer.getvalue())
    write_file(f"{folder}/info.json", json.dumps(plain, indent=1).encode())


def load_checkpoint(folder: str) -> Checkpoint:
    """Reads a checkpoint; `folder` may also be a run that holds one."""
    return parse_checkpoint(find_checkpoint(folder), folder)


def parse_checkpoint(content: bytes, folder: str) -> Checkpoint:
    """The checkpoint in the bytes of model.pt; `folder` is for messages."""
    import torch

    from distributed.config import Config, apply_changes
    from distributed.shards.manifest import Manifest
    from model.decisions.calibration import Calibration
    from model.decisions.guard import ValidationRows
    from model.fusion.cross_modal import CrossModalModel
    from model.network import Network
    from model.schema import from_dict

    try:
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        plain = json.loads(saved["plain"])
        made_with = int(plain["format"])
    except (RuntimeError, pickle.UnpicklingError, LookupError, TypeError, ValueError) as error:
        why = f"another model.pt, or a damaged one ({type(error).__name__})"
        raise ValueError(
            f"--checkpoint must be one that this project wrote; {folder} holds {why}"
        ) from None
    if made_with != WEIGHTS_FORMAT:
        way = (
            "use a newer version of this project"
            if made_with > WEIGHTS_FORMAT
            else "train again, or use the version that made it"
        )
        raise ValueError(
            f"--checkpoint must have format {WEIGHTS_FORMAT}; {folder} has {made_with}: {way}"
        )
    config = apply_changes(Config(), plain["config"])
    bare = dataclasses.replace(
        config.model, image=dataclasses.replace(config.image, weights="")
    )  # its weights are in the checkpoint
    network = Network(from_dict(plain["schema"]), bare)
    network.load_state_dict(saved["network"])
    network.eval()
    manifest = Manifest(**{**plain["manifest"], "schema": from_dict(plain["manifest"]["schema"])})
    validation = (
        ValidationRows.from_state_dict(saved["validation"]) if "validation" in saved else None
    )
    cross_modal = (
        CrossModalModel.from_state_dict(saved["cross_modal"]) if "cross_modal" in saved else None
    )
    return Checkpoint(
        network,
        config,
        manifest,
        Calibration.from_state_dict(saved["calibration"]),
        validation,
        cross_modal,
    )


def find_checkpoint(folder: str) -> bytes:
    """The bytes of model.pt in a run or in its checkpoint folder."""
    folder = folder.rstrip("/")
    for candidate in (f"{folder}/model.pt", f"{folder}/checkpoint/model.pt"):
        try:
            content = read_file(candidate)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not is_intact(content):
            way = "copy it again, or have its run write it anew: python distributed/train.py --out RUN --resume"
            raise ValueError(
                f"--checkpoint must be whole; {candidate} is damaged ({len(content)} bytes): {way}"
            )
        return content
    raise ValueError(f"--checkpoint must name {_missing(folder)}")


def is_intact(content: bytes) -> bool:
    """Whether every part of the zip agrees with its checksum; torch.load does not look."""
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged directory may name any kind of compression, encryption or place
        return False


def _missing(folder: str) -> str:
    """What a folder without model.pt should have been."""
    from distributed.runtime.storage import filesystem

    files, path = filesystem(folder)
    if files.get_file_info(f"{path}/config.json").type.name == "File":
        return f"a finished run; {folder} is unfinished: python distributed/train.py --out {folder} --resume finishes it"
    return f"a run or its checkpoint folder (it holds model.pt); got {folder!r}"
