"""No file runs code: a hostile pickle in the place of each file that is loaded is refused."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data.extensions  # noqa: F401  # Ray Data unpickles values of its own column type
import torch
from torch import nn

from distributed import config
from distributed.inference.decisions.costs import read_costs
from distributed.inference.known_prior import read_prior
from distributed.raw.image_files import RowRefused
from distributed.raw.images import ImageSpec, prepare_image
from distributed.raw.table import open_raw_table
from distributed.runtime.command import one_line
from distributed.runtime.storage import read_json_object
from distributed.searches.setup import read_setup
from distributed.searches.state.journal import open_journal
from distributed.searches.state.records import SearchLog
from distributed.shards.index import read_index
from distributed.shards.manifest import read_manifest
from distributed.shards.opened import Shards
from distributed.studies.reading import read_study
from distributed.studies.results import Results
from distributed.training.checkpoint import load_checkpoint
from distributed.training.driver import FitOptions, plan_run
from distributed.training.frozen_views import read_views
from distributed.training.progress.recorder import read_history
from distributed.training.states import States
from model.encoders import efficientnet
from model.encoders.timm_backbone import TimmBackbone
from tests.training import small_run


class Hostile:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "code-has-run"


def plain(mark: Path) -> bytes:
    return pickle.dumps(Hostile(mark))


def zipped(mark: Path) -> bytes:
    """As torch.save writes an object."""
    buffer = io.BytesIO()
    torch.save({"format": 7, "plain": "{}", "run": "run", "state": Hostile(mark)}, buffer)
    return buffer.getvalue()


def column(mark: Path) -> bytes:
    """A Parquet file with a column of Ray Data's type for Python objects."""
    kind = {"ARROW:extension:name": "ray.data.arrow_pickled_object", "ARROW:extension:metadata": ""}
    field = pa.field("photo", pa.large_binary(), metadata=kind)
    values = pa.array([plain(mark)] * 4, pa.large_binary())
    numbers = pa.array(range(4), pa.int32())
    fields = [field, *(pa.field(name, pa.int32()) for name in ("id", "label", "rank"))]
    buffer = io.BytesIO()
    pq.write_table(pa.table([values, numbers, numbers, numbers], schema=pa.schema(fields)), buffer)
    return buffer.getvalue()


def checkpoint(folder: Path, content: bytes) -> None:
    (folder / "model.pt").write_bytes(content)
    load_checkpoint(str(folder))


def state(folder: Path, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()[:16]  # whoever writes the file can do this too
    (folder / f"epoch-000001-{digest}.pt").write_bytes(content)
    States(str(folder), "run").load()


def weights(folder: Path, content: bytes) -> None:
    (folder / "weights.pth").write_bytes(content)
    TimmBackbone.load(nn.Module(), str(folder / "weights.pth"), 3)  # type: ignore[arg-type]


def package_weights(folder: Path, content: bytes) -> None:
    """Of an installed package, in the place of EfficientNet's."""
    name = f"package_{uuid.uuid4().hex}"
    file = folder / name / efficientnet.WEIGHTS_FILE
    file.parent.mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    file.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "PACKAGE", name)
        patch.syspath_prepend(folder)
        efficientnet.package_weights()


def raw_table(folder: Path, content: bytes) -> None:
    (folder / "t.parquet").write_bytes(content)
    open_raw_table(str(folder / "t.parquet"))


def shards_to_train(folder: Path, content: bytes) -> None:
    small_run.write_shards(folder / "shards", parts=1)
    (folder / "shards/train/part-00000.parquet").write_bytes(content)
    read_index(str(folder / "shards"), "train")


def shards_to_pandas(folder: Path, content: bytes) -> None:
    small_run.write_shards(folder / "shards", parts=1)
    (folder / "shards/val/part-00000.parquet").write_bytes(content)
    Shards(str(folder / "shards")).to_pandas("val")


def manifest(folder: Path, content: bytes) -> None:
    (folder / "schema.json").write_bytes(content)
    read_manifest(str(folder))


def run_settings(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    plan_run(str(folder), FitOptions(out=str(folder), resume=True))


def experiment(folder: Path, content: bytes) -> None:
    (folder / "experiment.json").write_bytes(content)
    read_setup(folder / "experiment.json", str(folder))


def settings_file(folder: Path, content: bytes) -> None:
    (folder / "best.toml").write_bytes(content)
    config.load_config(folder / "best.toml")


def prior(folder: Path, content: bytes) -> None:
    (folder / "prior.json").write_bytes(content)
    read_prior(str(folder / "prior.json"), ("a", "b"))


def costs(folder: Path, content: bytes) -> None:
    (folder / "costs.csv").write_bytes(content)
    read_costs(str(folder / "costs.csv"), ("a", "b"))


def run_data(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "data.json").write_bytes(content)
    plan_run(str(folder), FitOptions(out=str(folder), resume=True))


def history(folder: Path, content: bytes) -> None:
    (folder / "history.json").write_bytes(content)
    read_history(str(folder))


def metrics(folder: Path, content: bytes) -> None:
    (folder / "metrics.json").write_bytes(content)
    read_json_object(str(folder / "metrics.json"))


def records(folder: Path, content: bytes) -> None:
    (folder / "records.jsonl").write_bytes(content)
    SearchLog(folder)


def journal(folder: Path, content: bytes) -> None:
    (folder / "study.journal").write_bytes(content + b"\n")
    open_journal(folder / "study.journal")


def results(folder: Path, content: bytes) -> None:
    (folder / "results.csv").write_bytes(content)
    Results.load(str(folder))


def study_file(folder: Path, content: bytes) -> None:
    (folder / "study.toml").write_bytes(content)
    read_study(str(folder / "study.toml"))


def views(folder: Path, content: bytes) -> None:
    (folder / "views.npy").write_bytes(content)
    if read_views(folder / "views.npy") is None:
        raise ValueError("it is computed again")


def csv_table(folder: Path, content: bytes) -> None:
    (folder / "t.csv").write_bytes(content)
    open_raw_table(str(folder / "t.csv"))


def picture(folder: Path, content: bytes) -> None:
    prepare_image(content, ImageSpec(name="x", height=8, width=8, channels=3))


CASES = [
    *(
        (load, write)
        for load in (checkpoint, state, weights, package_weights)
        for write in (plain, zipped)
    ),
    *((load, column) for load in (raw_table, shards_to_train, shards_to_pandas)),
    *((load, plain) for load in (raw_table, shards_to_train, shards_to_pandas)),
    *(
        (load, plain)
        for load in (
            *(manifest, run_settings, experiment, settings_file, prior, picture, costs, run_data),
            *(history, metrics, records, journal, results, study_file, views, csv_table),
        )
    ),
]


@pytest.mark.parametrize(
    ("load", "write"), CASES, ids=lambda function: getattr(function, "__name__", "")
)
def test_a_hostile_pickle_is_refused_in_one_line_and_does_not_run(
    load: Callable[[Path, bytes], None],
    write: Callable[[Path], bytes],
    mark: Path,
    tmp_path: Path,
) -> None:
    content = write(mark)
    (tmp_path / "folder").mkdir()
    with pytest.raises((ValueError, RowRefused)) as refused:
        load(tmp_path / "folder", content)
    assert not mark.exists()
    message = one_line(refused.value)
    assert message and "Traceback" not in message


def test_the_pickles_would_run_where_they_were_unpickled(mark: Path) -> None:
    for read in (
        lambda: pickle.loads(plain(mark)),
        lambda: torch.load(io.BytesIO(zipped(mark)), weights_only=False),
        lambda: pq.read_table(io.BytesIO(column(mark)))["photo"].slice(0, 1).to_pylist(),
    ):
        read()
        assert mark.exists()
        mark.rmdir()
