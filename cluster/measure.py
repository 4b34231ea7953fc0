"""Measures on this machine the inputs of scale.py: decoding, ingest, ordering, the model."""

from __future__ import annotations

import functools
import io
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as pillow
from torch.utils.flop_counter import FlopCounterMode

from distributed.raw.images import ImageSpec, prepare_image
from distributed.shards import sampling
from distributed.shards.decode import decode_stored_image
from model.batch import Batch
from model.config import ImageConfig, ModelConfig
from model.learning.losses import loss_terms
from model.network import Network
from model.schema import Image, Numeric, Schema, Table


def measure(sides: Sequence[int]) -> dict[str, float]:
    """Returns every measured input by its name in scale.json, to four digits.

    sides: of images, in pixels.
    """
    parts: list[Callable[[], dict[str, float]]] = [
        functools.partial(measure_decoding, sides),
        measure_ingest,
        measure_order,
        *[functools.partial(measure_model, side) for side in sides],
    ]
    return {name: float(f"{value:.4g}") for part in parts for name, value in part().items()}


def seconds_of(work: Callable[[], object], seconds: float = 2.0) -> float:
    """Returns the CPU seconds of one call: the best of as many as fit into `seconds`.

    Only this process's CPU time counts, which other processes of the machine hardly change.
    """
    best, end = math.inf, time.monotonic() + seconds
    while time.monotonic() < end:
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


def photographs(side: int, count: int = 24, quality: int = 90) -> list[bytes]:
    """Returns JPEGs with the spectrum of photographs.

    Phases are random; amplitudes fall with the frequency.
    """
    rng = np.random.default_rng(side)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None]) + 1 / side
    files = []
    for _ in range(count):
        spectrum = np.fft.fft2(rng.normal(size=(3, side, side))) / frequency**1.1
        noise = np.fft.ifft2(spectrum).real
        noise = 0.8 * noise[:1] + 0.2 * noise  # colours of a photograph are correlated
        pixels = np.clip(128 + 50 * noise / noise.std(), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        pillow.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality)
        files.append(buffer.getvalue())
    return files


def measure_decoding(sides: Sequence[int]) -> dict[str, float]:
    """Returns the images that one core decodes in a second, and the bytes of an image.

    Decoded as in the training stream, from shards that hold images at the modality's size.
    """
    result = {}
    for side in sides:
        files, image = photographs(side), Image(name="photo", channels=3, height=side, width=side)

        def decode(files: list[bytes] = files, image: Image = image) -> None:
            for file in files:
                decode_stored_image(file, image).transpose(2, 0, 1).copy()

        result[f"decode_{side}"] = len(files) / seconds_of(decode)
        result[f"jpeg_bytes_{side}"] = sum(map(len, files)) / len(files)
    return result


def measure_ingest() -> dict[str, float]:
    """Returns the images of 448 pixels that one core ingests at 224 pixels in a second."""
    files, spec = photographs(448), ImageSpec(name="photo", height=224, width=224, channels=3)
    seconds = seconds_of(lambda: [prepare_image(file, spec) for file in files])
    return {"ingest_448_to_224": len(files) / seconds}


def measure_order(rows: int = 2_000_000) -> dict[str, float]:
    """Returns what each row of the set costs every worker of a stream, whatever its share.

    In bytes that it keeps, and in microseconds that it computes for an epoch.
    """
    # 32 bits each, as the shards hold them.
    labels: NDArray[Any] = np.random.default_rng(0).integers(0, 100, rows).astype(np.int32)
    ranks: NDArray[Any] = np.zeros(rows, np.int32)
    counts = np.bincount(labels)
    order = np.argsort(labels, kind="stable")
    ranks[order] = np.arange(rows) - np.concatenate(([0], np.cumsum(counts)[:-1]))[labels[order]]
    selection = sampling.select_training_rows(labels, ranks, counts)
    row_groups = np.arange(rows) // 1024

    def epoch() -> NDArray[np.int64]:
        drawn = sampling.draw_epoch(selection, "instance", seed=0, epoch=0, epochs=1)
        return sampling.order_by_row_group(drawn, row_groups, seed=0, epoch=0)

    selected = (selection.rows_R, selection.labels_R, selection.ranks_R)
    kept = sum(array.nbytes for array in (labels, ranks, *selected, row_groups, epoch()))
    return {
        "index_bytes_a_row": kept / rows,
        "order_us_a_row": 1e6 * seconds_of(epoch) / rows,
    }


def measure_model(side: int = 224, columns: int = 30, classes: int = 100) -> dict[str, float]:
    """Returns what a training step costs and what its state holds.

    In operations for one row, parameters, and bytes of one resumable state, of a network whose
    image encoder is trained from scratch; and the operations for one row of the default network,
    whose image encoder is pretrained and stays as it is.
    """
    schema = _schema(side, columns, classes)
    scratch = Network(schema, ModelConfig(image=ImageConfig(encoder="resnet")))
    parameters = sum(p.numel() for p in scratch.parameters())
    return {
        f"step_gflop_{side}": _step_gflop(scratch, side),
        f"default_gflop_{side}": _step_gflop(Network(schema, ModelConfig()), side),
        "parameters": parameters,
        # Weights, their average, Adam's two moments, all of them float32.
        "state_bytes": 16 * parameters,
    }


def _step_gflop(network: Network, side: int, rows: int = 2) -> float:
    """Returns the operations of a training step, forward and backward, for one row in 1e9."""
    schema = network.schema
    columns = len(schema.tables[0].numeric)
    batch = Batch(
        images={"photo": torch.zeros(rows, 3, side, side, dtype=torch.uint8)},
        numbers={"table": torch.zeros(rows, columns)},
        categories={"table": torch.zeros(rows, 0, dtype=torch.long)},
        present_BM=torch.ones(rows, 2, dtype=torch.bool),
        labels_B=torch.zeros(rows, dtype=torch.long),
        ranks_B=torch.arange(rows),
    )
    with FlopCounterMode(display=False) as counter:
        outputs = network(batch)
        terms = loss_terms(outputs, batch, network.counts_C, network.config, progress=0.0)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops()) / rows / 1e9


def _schema(side: int, columns: int, classes: int) -> Schema:
    quantiles = tuple(j / 16 for j in range(17))
    numbers = tuple(Numeric(name=f"n{i}", quantiles=quantiles) for i in range(columns))
    return Schema(
        images=(Image(name="photo", channels=3, height=side, width=side),),
        tables=(Table(name="table", numeric=numbers),),
        classes=tuple(f"c{i}" for i in range(classes)),
        counts=(1000,) * classes,
    )
