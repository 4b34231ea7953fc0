"""What a large set needs: `measure` times this machine's share of the inputs, `plan` does the arithmetic of cluster/SCALE.md.

python cluster/scale.py measure                      # a minute; one JSON line
python cluster/scale.py plan --gpus 64 --rows 1e8    # the table, from the measured inputs in scale.json unless given
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import dataclasses
import functools
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

INPUTS = Path(__file__).resolve().parent / "scale.json"
SIDES = (64, 96, 128, 224, 448)


def seconds_of(work: Callable[[], object], seconds: float = 2.0) -> float:
    """CPU seconds of one call, of this process: what others run on the machine hardly changes it. The best of several."""
    best, end = math.inf, time.monotonic() + seconds
    while time.monotonic() < end:
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


def photographs(side: int, count: int = 24, quality: int = 90) -> list[bytes]:
    """JPEGs with the spectrum of photographs: random phases, amplitudes that fall with the frequency."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(side)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None]) + 1 / side
    made = []
    for _ in range(count):
        noise = np.fft.ifft2(
            np.fft.fft2(generator.normal(size=(3, side, side))) / frequency**1.1
        ).real
        noise = 0.8 * noise[:1] + 0.2 * noise  # colours of a photograph are correlated
        pixels_HWC = (
            np.clip(128 + 50 * noise / noise.std(), 0, 255).astype(np.uint8).transpose(1, 2, 0)
        )
        buffer = io.BytesIO()
        Image.fromarray(pixels_HWC).save(buffer, "JPEG", quality=quality)
        made.append(buffer.getvalue())
    return made


def measure_decoding() -> dict[str, float]:
    """Images a second and core, as the training stream decodes them (shards hold them at the modality's size), and bytes of each."""
    from distributed.shards.decode import decode_stored_image
    from model.schema import Image

    found = {}
    for side in SIDES:
        files, image = photographs(side), Image(name="photo", channels=3, height=side, width=side)

        def decode(files: list[bytes] = files, image: Image = image) -> None:
            for file in files:
                decode_stored_image(file, image).transpose(2, 0, 1).copy()

        found[f"decode_{side}"] = len(files) / seconds_of(decode)
        found[f"jpeg_bytes_{side}"] = sum(map(len, files)) / len(files)
    return found


def measure_ingest() -> dict[str, float]:
    """Images of 448 pixels that one core reads, scales to 224 and encodes again in a second."""
    from distributed.raw.images import ImageSpec, prepare_image

    files, spec = photographs(448), ImageSpec(name="photo", height=224, width=224, channels=3)
    return {
        "ingest_448_to_224": len(files)
        / seconds_of(lambda: [prepare_image(f, spec) for f in files])
    }


def measure_order(rows: int = 2_000_000) -> dict[str, float]:
    """What a worker of a stream keeps and computes for each row of the set, whatever its share: bytes, and microseconds an epoch."""
    import numpy as np

    from distributed.shards import sampling

    labels = np.random.default_rng(0).integers(0, 100, rows).astype(np.int32)
    ranks, counts = np.zeros(rows, np.int32), np.bincount(labels)
    order = np.argsort(labels, kind="stable")
    ranks[order] = np.arange(rows) - np.concatenate(([0], np.cumsum(counts)[:-1]))[labels[order]]
    selection = sampling.select_training_rows(labels, ranks, counts)
    units = np.arange(rows) // 1024

    def epoch() -> Any:
        return sampling.order_by_unit(
            sampling.draw_epoch(selection, "instance", seed=0, epoch=0, epochs=1),
            units,
            seed=0,
            epoch=0,
        )

    kept = (
        labels.nbytes
        + ranks.nbytes
        + selection.rows_R.nbytes
        + selection.labels_R.nbytes
        + selection.ranks_R.nbytes
        + units.nbytes
    )
    return {
        "index_bytes_a_row": kept / rows + epoch().nbytes / rows,
        "order_us_a_row": 1e6 * seconds_of(epoch) / rows,
    }


def measure_model(side: int = 224, columns: int = 30, classes: int = 100) -> dict[str, float]:
    """Of the default network: operations of a training step for one row, parameters, bytes of one resumable state."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from model.batch import Batch
    from model.config import ModelConfig
    from model.network import Network
    from model.schema import Image, Numeric, Schema, Table

    numbers = tuple(
        Numeric(name=f"n{i}", quantiles=tuple(j / 16 for j in range(17))) for i in range(columns)
    )
    schema = Schema(
        images=(Image(name="photo", channels=3, height=side, width=side),),
        tables=(Table(name="table", numeric=numbers),),
        classes=tuple(f"c{i}" for i in range(classes)),
        counts=tuple(1000 for _ in range(classes)),
    )
    network = Network(schema, ModelConfig())
    rows = 2
    batch = Batch(
        images={"photo": torch.zeros(rows, 3, side, side, dtype=torch.uint8)},
        numbers={"table": torch.zeros(rows, columns)},
        categories={"table": torch.zeros(rows, 0, dtype=torch.long)},
        present_BM=torch.ones(rows, 2, dtype=torch.bool),
        labels_B=torch.zeros(rows, dtype=torch.long),
        ranks_B=torch.arange(rows),
    )
    with FlopCounterMode(display=False) as counter:
        network(batch)
    parameters = sum(p.numel() for p in network.parameters())
    # Forward and twice that backward. A state: weights, their average, Adam's two moments, all float32.
    gflop = 3 * counter.get_total_flops() / rows / 1e9
    return {f"step_gflop_{side}": gflop, "parameters": parameters, "state_bytes": 16 * parameters}


def given(default: Any, meaning: str) -> Any:
    """An input with its meaning and unit."""
    return dataclasses.field(default=default, metadata={"help": meaning})


@dataclass(kw_only=True)
class Plan:
    """The inputs that depend on the user's data and machines. Those called assumed are not measured here: put in your own."""

    rows: float = given(1e8, "rows of the set")
    side: int = given(448, "pixels at which the shards hold the image")
    row_bytes: float = given(100e3, "bytes of a row in the shards")
    gpus: int = given(64, "GPUs")
    gpus_per_node: int = given(8, "GPUs of a node")
    cpus_per_gpu: int = given(16, "CPUs for each GPU, beside the one that trains")
    gpu_tflops: float = given(10.0, "TFLOP/s that a GPU sustains on this small network, assumed")
    node_gbytes: float = given(
        10.0, "GB/s of a node's network, reading and gradients together, assumed"
    )
    store_gbytes: float = given(50.0, "GB/s of the object store, all readers together, assumed")
    disk_gbytes: float = given(1.0, "GB/s at which rank 0 writes a state to the store, assumed")
    batch: int = given(256, "rows a GPU and step")
    price: float = given(
        4.0, "price of a GPU-hour with its share of the node, in any currency, assumed"
    )
    epochs: int = given(20, "epochs of a training")
    trials: int = given(200, "configurations of a search")
    trial_rows: float = given(2e6, "training rows of a search's runs (data.max_rows)")
    reduction: int = given(
        3, "of ASHA, as tune.py sets it; its first rung is a fifth of the epochs"
    )


def rungs(epochs: int, reduction: int) -> list[int]:
    """Epochs at which ASHA decides, and the last."""
    found = [max(1, round(epochs / 5))]
    while found[-1] * reduction < epochs:
        found.append(found[-1] * reduction)
    return [*found, epochs]


def search_epochs(plan: Plan) -> float:
    """Epochs of all trials together when each rung lets 1 / reduction through."""
    steps = rungs(plan.epochs, plan.reduction)
    spans = [high - low for low, high in zip([0, *steps], steps)]
    return sum(plan.trials / plan.reduction**k * span for k, span in enumerate(spans))


def limits(plan: Plan, measured: dict[str, float]) -> dict[str, float]:
    """Rows a second that each part of the cluster can pass, all GPUs together."""
    nodes = plan.gpus / plan.gpus_per_node
    gradients = (
        2 * 4 * measured["parameters"] / plan.batch
    )  # bytes a row and GPU, sent and received, in a ring
    across = gradients * (plan.gpus > plan.gpus_per_node)
    return {
        "decoding (CPUs beside the GPUs)": plan.gpus
        * plan.cpus_per_gpu
        * measured[f"decode_{plan.side}"],
        "GPUs": plan.gpus * plan.gpu_tflops * 1e3 / measured[f"step_gflop_{plan.side}"],
        "network of the nodes": nodes * plan.node_gbytes * 1e9 / (plan.row_bytes + across),
        "object store": plan.store_gbytes * 1e9 / plan.row_bytes,
    }


def table(plan: Plan, measured: dict[str, float]) -> str:
    """The arithmetic as a Markdown table."""
    caps = limits(plan, measured)
    first = min(caps, key=lambda name: caps[name])
    rate = caps[first]
    seconds = plan.rows / rate
    hours = seconds / 3600
    searched = search_epochs(plan) * plan.trial_rows
    saving = measured["state_bytes"] / plan.disk_gbytes / 1e9
    index = plan.rows * measured["index_bytes_a_row"] / 1e9
    lines = [
        (
            "set",
            f"{plan.rows:.3g} rows x {plan.row_bytes / 1e3:.0f} kB = {plan.rows * plan.row_bytes / 1e12:.3g} TB",
        ),
        *[(f"limit: {name}", f"{cap:,.0f} rows/s") for name, cap in caps.items()],
        ("first bottleneck", f"{first}: {rate:,.0f} rows/s, {rate / plan.gpus:,.0f} a GPU"),
        (
            "CPUs that decode for one GPU at that rate",
            f"{rate / plan.gpus / measured[f'decode_{plan.side}']:.1f}",
        ),
        (
            "CPUs for GPUs that never wait",
            f"{caps['GPUs'] / plan.gpus / measured[f'decode_{plan.side}']:.1f} a GPU",
        ),
        (
            "read from the store",
            f"{rate * plan.row_bytes / 1e9:.1f} GB/s, {rate * plan.row_bytes * plan.gpus_per_node / plan.gpus / 1e9:.2f} a node",
        ),
        (
            "one epoch",
            f"{hours:.2f} h, {hours * plan.gpus:,.0f} GPU-hours, {hours * plan.gpus * plan.price:,.0f} at {plan.price:g} a GPU-hour",
        ),
        (
            f"one run of {plan.epochs} epochs",
            f"{hours * plan.epochs:.1f} h, {hours * plan.epochs * plan.gpus * plan.price:,.0f}",
        ),
        (
            "checkpoint traffic",
            f"{measured['state_bytes'] / 1e6:.0f} MB an epoch, {saving:.2f} s of {seconds:,.0f} s",
        ),
        (
            "memory of the row index",
            f"{index:.1f} GB in every training process, {index * plan.gpus_per_node:.0f} GB a node",
        ),
        (
            "order of an epoch",
            f"{plan.rows * measured['order_us_a_row'] / 1e6:.1f} s before its first batch",
        ),
        (
            f"search: {plan.trials} trials, ASHA, rungs {', '.join(map(str, rungs(plan.epochs, plan.reduction)))}",
            f"{search_epochs(plan):,.0f} epochs instead of {plan.trials * plan.epochs:,}",
        ),
        (
            f"search on {plan.trial_rows:.3g} rows a trial",
            f"{searched / rate / 3600:.1f} h, {searched / rate / 3600 * plan.gpus * plan.price:,.0f}",
        ),
        (
            "the same search on all rows",
            f"{search_epochs(plan) * hours:,.0f} h, {search_epochs(plan) * hours * plan.gpus * plan.price:,.0f}",
        ),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in lines)])


def measure() -> dict[str, float]:
    parts: list[Callable[[], dict[str, float]]] = [measure_decoding, measure_ingest, measure_order]
    parts += [functools.partial(measure_model, side) for side in SIDES]
    return {name: float(f"{value:.4g}") for part in parts for name, value in part().items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "measure", help="time decoding, ingest, ordering and the network on this machine"
    )
    arithmetic = commands.add_parser("plan", help="the arithmetic for a data set and a cluster")
    for entry in dataclasses.fields(Plan):
        arithmetic.add_argument(
            "--" + entry.name.replace("_", "-"),
            type=type(entry.default),
            default=entry.default,
            choices=SIDES if entry.name == "side" else None,
            help=f"{entry.metadata['help']} (default: {entry.default:g})",
        )
    options = vars(parser.parse_args())
    if options.pop("command") == "measure":
        print(json.dumps(measure()))
    else:
        print(table(Plan(**options), json.loads(INPUTS.read_text())))


if __name__ == "__main__":
    main()
