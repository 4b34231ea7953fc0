"""Writes the event files that TensorBoard reads, for a training run, a search and a study alike.

The files are written with TensorBoard's own package and not with torch's SummaryWriter, because the
process that drives a search writes event files and must not load torch.
"""

from __future__ import annotations

import io
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2, summary_v2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from distributed.runtime.redaction import redact

MAX_CLOCK_LEAD = 10.0  # seconds to wait for event files that seem to have been created later
_POSITIVE_EDGES = 1e-12 * 1.1 ** np.arange(775)
# The bucket edges of TensorFlow's histograms: each bucket is 10 % wider than the one before it.
BUCKET_EDGES = np.concatenate([-_POSITIVE_EDGES[::-1], [0.0], _POSITIVE_EDGES])
HPARAM_TYPES = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}

Setting = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class SettingColumn:
    """A column of the HParams table. TensorBoard filters and sorts it by the type of its values."""

    name: str
    description: str
    type: type


class EventWriter:
    """Writes one run of TensorBoard: scalars, texts, images, histograms, charts, hyperparameters.

    The event file is created by the first write, so that a run without events leaves no file.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        upload: Callable[[str, bytes], None] | None = None,
        first_step: int | None = None,
    ) -> None:
        """Prepares a writer; nothing is written yet.

        upload: stores a file by its name and content. If it is given, the event files are written
            to a temporary folder instead of `folder`, and every flush uploads them.
        first_step: the step that a resumed run continues with. TensorBoard then drops this step
            and later ones from the event files of before.
        """
        self._upload = upload
        self._temporary = tempfile.TemporaryDirectory(prefix="events-") if upload else None
        self.folder = Path(self._temporary.name if self._temporary else folder)
        self._first_step = first_step
        self._file: EventFileWriter | None = None

    def scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars({tag: value}, step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes numbers by their tags."""
        self._add([Summary.Value(tag=t, simple_value=float(v)) for t, v in values.items()], step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Writes a Markdown text."""
        self._add(text_pb(f"{tag}/text_summary", redact(markdown)).value, step)

    def image(self, tag: str, pixels_HWC: NDArray[np.uint8], step: int) -> None:
        """Writes an RGB image."""
        png = io.BytesIO()
        Image.fromarray(pixels_HWC).save(png, format="PNG")
        height, width, channels = pixels_HWC.shape
        image = Summary.Image(
            height=height,
            width=width,
            colorspace=channels,
            encoded_image_string=png.getvalue(),
        )
        self._add([Summary.Value(tag=tag, image=image)], step)

    def histogram(self, tag: str, values: NDArray[np.floating], step: int) -> None:
        """Writes the distribution of values."""
        self._add([Summary.Value(tag=tag, histo=histogram_proto(values))], step)

    def charts(self, layout: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Writes the page of custom charts.

        layout: `{category: {chart: patterns}}`; a chart shows the scalars whose tags match one of
            its regular expressions from the tag's start.
        """
        categories = [
            layout_pb2.Category(
                title=category,
                chart=[
                    layout_pb2.Chart(
                        title=chart, multiline=layout_pb2.MultilineChartContent(tag=patterns)
                    )
                    for chart, patterns in charts.items()
                ],
            )
            for category, charts in layout.items()
        ]
        content = layout_pb2.Layout(category=categories).SerializeToString()
        value = Summary.Value(
            tag=layout_metadata.CONFIG_SUMMARY_TAG,
            metadata=layout_metadata.create_summary_metadata(),
            tensor=make_tensor_proto(content, dtype=np.object_),
        )
        self._add([value], 0)

    def hparams_table(self, settings: Sequence[SettingColumn], metrics: Mapping[str, str]) -> None:
        """Writes the columns of the HParams table, whatever settings the single sessions have.

        metrics: the tags of the scalars that the table shows, with the heads of their columns.
        """
        columns = [
            api_pb2.HParamInfo(
                name=setting.name,
                description=setting.description,
                type=HPARAM_TYPES.get(setting.type, api_pb2.DATA_TYPE_FLOAT64),
            )
            for setting in settings
        ]
        scores = [
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=head)
            for tag, head in metrics.items()
        ]
        experiment = api_pb2.Experiment(hparam_infos=columns, metric_infos=scores)
        self._add_hparams(
            hparams_metadata.EXPERIMENT_TAG,
            plugin_data_pb2.HParamsPluginData(experiment=experiment),
        )

    def start_session(
        self, settings: Mapping[str, Setting], *, group: str, started: float | None = None
    ) -> None:
        """Writes the settings of this run. Runs of one group share a row of the HParams table.

        started: seconds since the epoch; now if it is None.
        """
        summary = summary_v2.hparams_pb(settings, trial_id=group, start_time_secs=started)
        self._add(summary.value, 0)

    def end_session(self, *, failed: bool) -> None:
        """Writes that the run has ended now, and whether it failed."""
        status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
        end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
        self._add_hparams(
            hparams_metadata.SESSION_END_INFO_TAG,
            plugin_data_pb2.HParamsPluginData(session_end_info=end),
        )

    def flush(self) -> None:
        """Makes everything written so far visible to readers, at the URI too if there is one."""
        if self._file is not None:
            self._file.flush()
        if self._upload is not None:
            for file in sorted(self.folder.glob("events.*")):
                self._upload(file.name, file.read_bytes())

    def close(self) -> None:
        """Flushes and closes the event file. The writer cannot be used afterwards."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self.flush()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _add_hparams(self, tag: str, content: plugin_data_pb2.HParamsPluginData) -> None:
        value = Summary.Value(
            tag=tag,
            metadata=hparams_metadata.create_summary_metadata(content),
            tensor=hparams_metadata.NULL_TENSOR,
        )
        self._add([value], 0)

    def _add(self, values: Iterable[Summary.Value], step: int) -> None:
        summary = Summary(value=values)
        self._open().add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def _open(self) -> EventFileWriter:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = EventFileWriter(str(self.folder))
            if self._first_step is not None:
                restart = SessionLog(status=SessionLog.START)
                self._file.add_event(
                    Event(wall_time=time.time(), step=self._first_step, session_log=restart)
                )
        return self._file


def histogram_proto(values: NDArray[np.floating]) -> HistogramProto:
    """Counts values in TensorFlow's buckets, without the empty buckets at both ends.

    A bucket is written by its upper edge only, so one empty bucket stays before the first value:
    its upper edge is the lower edge of the first counted bucket.
    """
    values = np.asarray(values, dtype=np.float64).reshape(-1)
    counts, edges = np.histogram(values, bins=BUCKET_EDGES)
    filled = np.flatnonzero(counts)
    first, last = (int(filled[0]), int(filled[-1])) if filled.size else (0, 0)
    return HistogramProto(
        min=values.min(),
        max=values.max(),
        num=values.size,
        sum=values.sum(),
        sum_squares=values @ values,
        bucket_limit=edges[first : last + 2].tolist(),
        bucket=[0, *counts[first : last + 1].tolist()],
    )


def scalar_tag(name: str) -> str:
    """Returns the tag of a metric of a training run.

    TensorBoard groups scalars by the part before the slash, so the groups hold what compares well
    on one screen: val/..., val_recall/CLASS, loss/..., weight/MODALITY, speed/...
    """
    for prefix, group in (
        ("val/recall/", "val_recall/"),
        ("val/precision/", "val_precision/"),
        ("val/weight/", "weight/"),
        ("val/confidence/", "confidence/"),
    ):
        if name.startswith(prefix):
            return group + name.removeprefix(prefix)
    return {
        "lr": "speed/learning_rate",
        "rows_per_second": "speed/rows_per_second",
        "loss": "loss/total",
    }.get(name, name)


def remove_event_files(folder: Path) -> None:
    """Deletes the event files of this folder, not those of the folders below it."""
    for file in folder.glob("events.out.tfevents.*"):
        file.unlink()


def wait_until_newest(file_names: Iterable[str]) -> None:
    """Waits until a new event file gets a later time in its name than these have.

    TensorBoard reads the event files of a run in the order of their names, which begin with the
    second they were created in, then the process. A run that is resumed within the second in which
    it began, or on a machine whose clock is a little behind, waits for the next second: otherwise
    its curves would be read before those that they continue. The clock may be set back meanwhile.
    """
    stamps = [re.match(r"events\.out\.tfevents\.(\d+)\.", name) for name in file_names]
    later = max((int(stamp[1]) for stamp in stamps if stamp), default=0) + 1
    while 0 < (lead := later - time.time()) <= MAX_CLOCK_LEAD:
        time.sleep(lead)
