"""What a large set needs: times this machine's share of the inputs, and does the arithmetic.

python cluster/scale.py measure                      # a minute; one JSON line
python cluster/scale.py plan --gpus 64 --rows 1e8    # the table of cluster/SCALE.md

The measured inputs of `plan` are those in scale.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

INPUTS = Path(__file__).resolve().parent / "scale.json"
SIDES = (64, 96, 128, 224, 448)  # pixels of an image


def plan_input(default: float, meaning: str) -> Any:
    """Returns a dataclass field of an input, with its meaning and unit."""
    return dataclasses.field(default=default, metadata={"help": meaning})


@dataclass(kw_only=True)
class Plan:
    """The inputs that depend on the user's data and machines.

    Those called assumed are not measured here: put in your own.
    """

    rows: float = plan_input(1e8, "rows of the set")
    side: int = plan_input(448, "pixels at which the shards hold the image")
    row_bytes: float = plan_input(100e3, "bytes of a row in the shards")
    gpus: int = plan_input(64, "GPUs")
    gpus_per_node: int = plan_input(8, "GPUs of a node")
    cpus_per_gpu: int = plan_input(16, "CPUs for each GPU, beside the one that trains")
    gpu_tflops: float = plan_input(
        10.0, "TFLOP/s that a GPU sustains on this small network, assumed"
    )
    node_gbytes: float = plan_input(
        10.0, "GB/s of a node's network, reading and gradients together, assumed"
    )
    store_gbytes: float = plan_input(
        50.0, "GB/s of the object store, all readers together, assumed"
    )
    disk_gbytes: float = plan_input(
        1.0, "GB/s at which rank 0 writes a state to the store, assumed"
    )
    batch: int = plan_input(256, "rows a GPU and step")
    price: float = plan_input(
        4.0, "price of a GPU-hour with its share of the node, in any currency, assumed"
    )
    epochs: int = plan_input(20, "epochs of a training")
    trials: int = plan_input(200, "configurations of a search")
    trial_rows: float = plan_input(2e6, "training rows of a search's runs (data.max_rows)")
    reduction: int = plan_input(
        2, "of ASHA, as tune.py sets it; its first rung is a third of the epochs"
    )


def rungs(epochs: int, reduction: int) -> list[int]:
    """Returns the epochs at which ASHA decides, and the last epoch."""
    steps = [max(1, math.ceil(epochs / 3))]
    while steps[-1] * reduction < epochs:
        steps.append(steps[-1] * reduction)
    return [*steps, epochs]


def search_epochs(plan: Plan) -> float:
    """Returns the epochs of all trials together when each rung lets 1 / reduction through."""
    steps = rungs(plan.epochs, plan.reduction)
    spans = [high - low for low, high in zip([0, *steps], steps)]
    return sum(plan.trials / float(plan.reduction**k) * span for k, span in enumerate(spans))


def limits(plan: Plan, measured: Mapping[str, float]) -> dict[str, float]:
    """Returns the rows per second that each part of the cluster can pass, all GPUs together."""
    nodes = plan.gpus / plan.gpus_per_node
    # Bytes for each row and GPU, sent and received, in a ring.
    gradients = 2 * 4 * measured["parameters"] / plan.batch
    across_nodes = gradients if plan.gpus > plan.gpus_per_node else 0.0
    decoding = plan.gpus * plan.cpus_per_gpu * measured[f"decode_{plan.side}"]
    return {
        "decoding (CPUs beside the GPUs)": decoding,
        "GPUs": plan.gpus * plan.gpu_tflops * 1e3 / measured[f"step_gflop_{plan.side}"],
        "network of the nodes": nodes * plan.node_gbytes * 1e9 / (plan.row_bytes + across_nodes),
        "object store": plan.store_gbytes * 1e9 / plan.row_bytes,
    }


def table(plan: Plan, measured: Mapping[str, float]) -> str:
    """Returns the arithmetic as a Markdown table."""
    caps = limits(plan, measured)
    rows = [*_throughput(plan, measured, caps), *_costs(plan, measured, min(caps.values()))]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _throughput(
    plan: Plan, measured: Mapping[str, float], caps: Mapping[str, float]
) -> list[tuple[str, str]]:
    """Returns the rows of the table about the limits, the first of them, and the CPUs it takes."""
    bottleneck = min(caps, key=lambda name: caps[name])
    rate = caps[bottleneck]
    decoded = measured[f"decode_{plan.side}"]
    set_bytes = plan.rows * plan.row_bytes
    read = rate * plan.row_bytes / 1e9
    return [
        (
            "set",
            f"{plan.rows:.3g} rows x {plan.row_bytes / 1e3:.0f} kB = {set_bytes / 1e12:.3g} TB",
        ),
        *[(f"limit: {name}", f"{cap:,.0f} rows/s") for name, cap in caps.items()],
        ("first bottleneck", f"{bottleneck}: {rate:,.0f} rows/s, {rate / plan.gpus:,.0f} a GPU"),
        ("CPUs that decode for one GPU at that rate", f"{rate / plan.gpus / decoded:.1f}"),
        ("CPUs for GPUs that never wait", f"{caps['GPUs'] / plan.gpus / decoded:.1f} a GPU"),
        (
            "read from the store",
            f"{read:.1f} GB/s, {read * plan.gpus_per_node / plan.gpus:.2f} a node",
        ),
    ]


def _costs(plan: Plan, measured: Mapping[str, float], rate: float) -> list[tuple[str, str]]:
    """Returns the rows of the table about time, price, memory, and the search."""
    seconds = plan.rows / rate
    hours = seconds / 3600
    hourly = plan.gpus * plan.price  # of the whole cluster
    saving = measured["state_bytes"] / plan.disk_gbytes / 1e9
    index = plan.rows * measured["index_bytes_a_row"] / 1e9
    epochs = search_epochs(plan)
    search_hours = epochs * plan.trial_rows / rate / 3600
    steps = ", ".join(map(str, rungs(plan.epochs, plan.reduction)))
    return [
        (
            "one epoch",
            f"{hours:.2f} h, {hours * plan.gpus:,.0f} GPU-hours,"
            f" {hours * hourly:,.0f} at {plan.price:g} a GPU-hour",
        ),
        (
            f"one run of {plan.epochs} epochs",
            f"{hours * plan.epochs:.1f} h, {hours * plan.epochs * hourly:,.0f}",
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
            f"search: {plan.trials} trials, ASHA, rungs {steps}",
            f"{epochs:,.0f} epochs instead of {plan.trials * plan.epochs:,}",
        ),
        (
            f"search on {plan.trial_rows:.3g} rows a trial",
            f"{search_hours:.1f} h, {search_hours * hourly:,.0f}",
        ),
        (
            "the same search on all rows",
            f"{epochs * hours:,.0f} h, {epochs * hours * hourly:,.0f}",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "measure", help="time decoding, ingest, ordering and the network on this machine"
    )
    arithmetic = commands.add_parser("plan", help="the arithmetic for a data set and a cluster")
    for field in dataclasses.fields(Plan):
        arithmetic.add_argument(
            "--" + field.name.replace("_", "-"),
            type=type(field.default),
            default=field.default,
            choices=SIDES if field.name == "side" else None,
            help=f"{field.metadata['help']} (default: {field.default:g})",
        )
    options = vars(parser.parse_args())
    if options.pop("command") == "measure":
        # torch takes seconds to load, and the arithmetic does not need it.
        from cluster.measure import measure

        print(json.dumps(measure(SIDES)))
    else:
        print(table(Plan(**options), json.loads(INPUTS.read_text())))


if __name__ == "__main__":
    main()
