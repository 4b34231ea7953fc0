"""The charts that TensorBoard opens with."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from tests.training import small_run

# A modality whose name begins like another's and has a meaning as a pattern.
OTHER = "photo (a|b) [x.y]+"


def charts(events: EventAccumulator) -> dict[str, set[str]]:
    """The tags that each chart shows, matched as TensorBoard matches them."""
    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    patterns_of = {
        chart.title: list(chart.multiline.tag)
        for category in layout.category
        for chart in category.chart
    }
    tags = events.Tags()["scalars"]
    return {
        title: {tag for tag in tags for pattern in patterns if re.match(pattern, tag)}
        for title, patterns in patterns_of.items()
    }


def test_every_chart_shows_the_curves_that_it_names_and_no_others(tmp_path: Path) -> None:
    schema = small_run.schema()
    schema = dataclasses.replace(
        schema, tables=(dataclasses.replace(schema.tables[0], name=OTHER),)
    )
    small_run.train(
        tmp_path / "run", small_run.write_shards(tmp_path / "shards", schema), **{"optim.epochs": 1}
    )
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    losses = {tag for tag in events.Tags()["scalars"] if tag.startswith("loss/")}
    assert {"loss/total", "loss/diversity"} < losses
    assert charts(events) == {
        "accuracy by shot group": {
            f"val/{shot}_shot_accuracy" for shot in ("many", "medium", "few")
        },
        "balanced": {"val/balanced_accuracy", "val/macro_f1", "val/worst_recall"},
        "weights": {"weight/photo", f"weight/{OTHER}"},
        "confidences": {"confidence/photo", f"confidence/{OTHER}"},
        "loss terms": losses,
    }
