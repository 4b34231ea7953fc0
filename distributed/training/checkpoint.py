"""The checkpoint of a finished run: one self-contained file, without pickled code."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from dataclasses import dataclass

import torch

from distributed.config import Config, apply_changes
from distributed.runtime.errors import OptionError
from distributed.runtime.shell import resume_command
from distributed.runtime.storage import filesystem, read_file, write_file
from distributed.shards.manifest import Manifest
from distributed.training.states import WEIGHTS_FORMAT
from distributed.training.stored_networks import describe, restore, weights_of
from model.classifier import Classifier
from model.decisions.calibration import Calibration
from model.decisions.guard import ValidationRows
from model.fusion.cross_modal import CrossModalModel
from model.schema import from_dict, to_dict

MODEL_FILE = "model.pt"
TRAIN = "distributed/train.py"
# Where in a folder its checkpoint may be: itself one, a run, an experiment of a search.
CHECKPOINT_PLACES = ("", "checkpoint/", "model/")
INFO_FILE = "info.json"  # what the checkpoint is of, for people


@dataclass
class Checkpoint:
    """All that evaluation and prediction need.

    validation: raw expert logits of labelled validation rows, for the guards at test time.
    cross_modal: tells whether the modalities of new rows still belong together.
    """

    network: Classifier
    config: Config
    manifest: Manifest
    calibration: Calibration
    validation: ValidationRows | None = None
    cross_modal: CrossModalModel | None = None


def save_checkpoint(folder: str, checkpoint: Checkpoint) -> None:
    """Writes the checkpoint and a readable description of it into the folder."""
    manifest = checkpoint.manifest
    description = {
        "format": WEIGHTS_FORMAT,
        **describe(checkpoint.network, checkpoint.config),
        # Without the checksums of the parts, which tell nothing of the network.
        "manifest": {**vars(manifest), "schema": to_dict(manifest.schema), "parts": {}},
    }
    content = {
        "plain": json.dumps(description),
        **weights_of(checkpoint.network),
        "calibration": checkpoint.calibration.state_dict(),
    }
    if checkpoint.validation is not None:
        content["validation"] = checkpoint.validation.state_dict()
    if checkpoint.cross_modal is not None:
        content["cross_modal"] = checkpoint.cross_modal.state_dict()
    buffer = io.BytesIO()
    torch.save(content, buffer)
    folder = folder.rstrip("/")
    write_file(f"{folder}/{MODEL_FILE}", buffer.getvalue())
    write_file(f"{folder}/{INFO_FILE}", json.dumps(description, indent=1).encode())


def load_checkpoint(folder: str) -> Checkpoint:
    """Reads a checkpoint; `folder` may also be a run that holds one."""
    return parse_checkpoint(find_checkpoint(folder), folder)


def parse_checkpoint(content: bytes, folder: str) -> Checkpoint:
    """The checkpoint in the bytes of model.pt; `folder` is for messages."""
    try:
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        description = json.loads(saved["plain"])
        version = int(description["format"])
    except (RuntimeError, pickle.UnpicklingError, LookupError, TypeError, ValueError) as error:
        reason = f"another model.pt, or a damaged one ({type(error).__name__})"
        raise OptionError(
            f"checkpoint must be one that this project wrote; {folder} holds {reason}",
            "checkpoint",
        ) from None
    if version != WEIGHTS_FORMAT:
        remedy = "train again, or use the version that made it"
        if version > WEIGHTS_FORMAT:
            remedy = "use a newer version of this project"
        raise OptionError(
            f"checkpoint must have format {WEIGHTS_FORMAT}; {folder} has {version}: {remedy}",
            "checkpoint",
        )
    try:
        config = apply_changes(Config(), description["config"])
        network = restore(description, saved, config)
    except ValueError as error:
        raise OptionError(
            f"checkpoint must have settings of this version; {folder}: {error}: train again, or"
            " use the version that made it",
            "checkpoint",
        ) from None
    manifest = description["manifest"]
    validation, cross_modal = saved.get("validation"), saved.get("cross_modal")
    return Checkpoint(
        network=network,
        config=config,
        manifest=Manifest(**{**manifest, "schema": from_dict(manifest["schema"])}),
        calibration=Calibration.from_state_dict(saved["calibration"]),
        validation=None if validation is None else ValidationRows.from_state_dict(validation),
        cross_modal=None if cross_modal is None else CrossModalModel.from_state_dict(cross_modal),
    )


def find_checkpoint(folder: str) -> bytes:
    """The bytes of model.pt in a run, in its checkpoint folder, or in a search's experiment."""
    folder = folder.rstrip("/")
    for place in CHECKPOINT_PLACES:
        candidate = f"{folder}/{place}{MODEL_FILE}"
        try:
            content = read_file(candidate)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not is_intact(content):
            run = candidate.removesuffix(f"/{place}{MODEL_FILE}")
            raise OptionError(
                f"checkpoint must be whole; {candidate} is damaged ({len(content)} bytes): "
                f"copy it again, or have its run write it anew: {resume_command(TRAIN, run)}",
                "checkpoint",
            )
        return content
    raise OptionError(f"checkpoint must name {_expected_instead_of(folder)}", "checkpoint")


def is_intact(content: bytes) -> bool:
    """Whether the zip file is whole: its directory, and every part by its checksum.

    torch.load checks the directory only, zipfile the parts.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if archive.testzip() is not None:
                return False
            is_of_torch = any(name.endswith("/data.pkl") for name in archive.namelist())
        if is_of_torch:
            torch.PyTorchFileReader(io.BytesIO(content))
    except Exception:  # a damaged directory may name any compression, encryption or position
        return False
    return True


def _expected_instead_of(folder: str) -> str:
    """What a folder without model.pt should have been."""
    files, path = filesystem(folder)
    if files.get_file_info(f"{path}/config.json").type.name == "File":
        return (
            f"a finished run; {folder} is unfinished: {resume_command(TRAIN, folder)} finishes it"
        )
    return f"a run or its checkpoint folder (it holds model.pt); got {folder!r}"
