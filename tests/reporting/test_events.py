"""Facts about event files: TensorBoard reads the same from them as from those of torch's writer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata, plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter

from distributed.reporting import events
from distributed.reporting.events import (
    EventWriter,
    SettingColumn,
    histogram_proto,
    wait_until_newest,
)

VALUES = np.random.default_rng(0).normal(size=500).astype(np.float32)
PIXELS_HWC = np.random.default_rng(1).integers(0, 255, size=(4, 6, 3)).astype(np.uint8)
LAYOUT = {"group": {"chart": ["loss/.+$", "val/accuracy$"], "other chart": ["x$"]}}


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()


def of_torch(folder: Path) -> EventAccumulator:
    writer = SummaryWriter(str(folder))
    writer.add_custom_scalars(
        {
            category: {name: ["Multiline", tags] for name, tags in charts.items()}
            for category, charts in LAYOUT.items()
        }
    )
    writer.add_scalar("val/accuracy", 0.25, 3)
    writer.add_text("settings", "| a | b |", 3)
    writer.add_image("confusion", PIXELS_HWC, 3, dataformats="HWC")
    writer.add_histogram("weights", VALUES, 3)
    writer.close()
    return read(folder)


def of_house(folder: Path) -> EventAccumulator:
    writer = EventWriter(folder)
    writer.charts(LAYOUT)
    writer.scalar("val/accuracy", 0.25, 3)
    writer.text("settings", "| a | b |", 3)
    writer.image("confusion", PIXELS_HWC, 3)
    writer.histogram("weights", VALUES, 3)
    writer.close()
    return read(folder)


def test_everything_is_read_as_from_torchs_writer(tmp_path: Path) -> None:
    torchs, ours = of_torch(tmp_path / "torch"), of_house(tmp_path / "ours")
    assert torchs.Tags() == ours.Tags()

    assert content(ours) == content(torchs)
    assert histogram(ours) == pytest.approx(histogram(torchs), rel=1e-5)


def content(events: EventAccumulator) -> Mapping[str, object]:
    (scalar,), (image,) = events.Scalars("val/accuracy"), events.Images("confusion")
    (text,) = events.Tensors("settings/text_summary")
    (layout,) = events.Tensors("custom_scalars__config__")
    return {
        "scalar": (scalar.step, scalar.value),
        "image": (image.step, image.width, image.height),
        "text": (text.step, list(text.tensor_proto.string_val)),
        "layout": layout_pb2.Layout.FromString(layout.tensor_proto.string_val[0]),
    }


def histogram(events: EventAccumulator) -> list[float]:
    (event,) = events.Histograms("weights")
    values = event.histogram_value
    summary = [values.min, values.max, values.num, values.sum, values.sum_squares]
    return [event.step, *summary, *values.bucket, *values.bucket_limit]


def test_a_writer_that_wrote_nothing_leaves_no_file(tmp_path: Path) -> None:
    EventWriter(tmp_path / "run").close()
    assert not (tmp_path / "run").exists()


def test_a_histogram_counts_every_value_once_between_its_edges() -> None:
    proto = histogram_proto(np.array([-2.0, 0.5, 0.5, 3.0]))
    assert (proto.min, proto.max, proto.num, proto.sum, proto.sum_squares) == (-2, 3, 4, 2, 13.5)
    assert len(proto.bucket) == len(proto.bucket_limit)
    assert sum(proto.bucket) == 4
    assert proto.bucket[0] == 0
    assert proto.bucket_limit[0] <= -2 < proto.bucket_limit[1]
    assert proto.bucket_limit[-2] <= 3 < proto.bucket_limit[-1]


def test_files_are_uploaded_at_every_flush_and_leave_nothing_behind(tmp_path: Path) -> None:
    stored: dict[str, bytes] = {}
    writer = EventWriter(tmp_path / "unused", upload=stored.__setitem__)
    writer.scalar("loss", 1.0, 1)
    writer.flush()
    (name,) = stored
    early = len(stored[name])
    writer.scalar("loss", 0.5, 2)
    writer.close()
    assert list(stored) == [name]
    assert len(stored[name]) > early
    assert not writer.folder.exists()
    assert not (tmp_path / "unused").exists()
    (tmp_path / name).write_bytes(stored[name])
    assert [e.value for e in read(tmp_path).Scalars("loss")] == [1.0, 0.5]


def test_a_resumed_run_drops_the_steps_that_it_repeats(tmp_path: Path) -> None:
    for first_step, value in ((None, 1.0), (2, 5.0)):
        writer = EventWriter(tmp_path, first_step=first_step)
        for step in (1, 2, 3):
            if first_step is None or step >= first_step:
                writer.scalar("loss", value, step)
        writer.close()
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("loss")] == [(1, 1), (2, 5), (3, 5)]


def test_the_table_has_all_settings_and_each_session_its_own(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path)
    columns = [
        SettingColumn(name="fusion.kind", description="which fusion", type=str),
        SettingColumn(name="optim.nesterov", description="momentum", type=bool),
        SettingColumn(name="optim.lr", description="learning rate", type=float),
    ]
    writer.hparams_table(columns, metrics={"final/accuracy": "accuracy"})
    writer.start_session({"optim.lr": 0.1, "fusion.kind": "gate"}, group="a row", started=5.0)
    writer.end_session(failed=True)
    writer.close()
    content = read(tmp_path).PluginTagToContent(metadata.PLUGIN_NAME)
    parts = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(data) for tag, data in content.items()
    }
    table = parts[metadata.EXPERIMENT_TAG].experiment
    assert [(c.name, c.description, c.type) for c in table.hparam_infos] == [
        ("fusion.kind", "which fusion", 1),
        ("optim.nesterov", "momentum", 2),
        ("optim.lr", "learning rate", 3),
    ]
    assert [(m.name.tag, m.display_name) for m in table.metric_infos] == [
        ("final/accuracy", "accuracy")
    ]
    start = parts[metadata.SESSION_START_INFO_TAG].session_start_info
    assert (start.group_name, start.start_time_secs) == ("a row", 5.0)
    assert start.hparams["optim.lr"].number_value == 0.1
    assert start.hparams["fusion.kind"].string_value == "gate"
    assert parts[metadata.SESSION_END_INFO_TAG].session_end_info.status == 2


class Clock:
    """A clock that is set back by some seconds during the first sleep."""

    def __init__(self, now: float, back: float) -> None:
        self.now, self.back = now, back

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds - self.back
        self.back = 0.0


@pytest.mark.parametrize(
    ("now", "back", "end"),
    [
        (101.0, 0.0, 101.0),  # nothing to wait for
        (100.5, 0.0, 101.0),
        (100.5, 0.75, 101.0),
        (90.5, 0.0, 90.5),  # a clock so far behind is not waited for
    ],
)
def test_a_new_event_file_is_of_a_later_second_even_if_the_clock_is_set_back(
    now: float, back: float, end: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(now, back)
    monkeypatch.setattr(events, "time", clock)
    wait_until_newest(
        ["history.json", "events.out.tfevents.100.host.1.0", "events.out.tfevents.9."]
    )
    assert clock.now == end
