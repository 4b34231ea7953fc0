"""The raw table as a Ray dataset, divided into tasks by what its images cost."""

from __future__ import annotations

from collections.abc import Sequence

import ray.data

from distributed.ingestion.costs import image_seconds, row_count
from distributed.raw.reading import csv_options
from distributed.raw.table import RawTable

# A task that decodes should take a second or more: Ray Data looks for finished tasks every 0.1 s,
# and a task waits for two or three looks.
TASK_SECONDS = 1.5
MIN_TASK_ROWS = 50
MAX_TASKS = 4000
TASKS_PER_CPU = 4  # so that no CPU waits long for the last task


def task_count(rows: int, pixels: Sequence[float], cpus: int) -> int:
    """Returns how many tasks should prepare the rows.

    pixels: number of pixels of each image in a row. Images cost much more than their bytes say.
    """
    wanted = max(TASKS_PER_CPU * cpus, int(rows * image_seconds(pixels) / TASK_SECONDS))
    return max(1, min(MAX_TASKS, rows // MIN_TASK_ROWS, wanted))


def ray_dataset(
    table: RawTable, columns: Sequence[str], pixels: Sequence[float], cpus: int
) -> ray.data.Dataset:
    """Returns a Ray dataset of the table's rows, in order; a CSV is read with all its columns.

    pixels: number of pixels of each image in a row.
    """
    # Without images the number of blocks is Ray Data's own choice, by bytes.
    blocks = task_count(row_count(table), pixels, cpus) if pixels else None
    if table.kind == "parquet":
        return ray.data.read_parquet(
            list(table.files),
            schema=table.types(columns),
            columns=list(columns),
            partitioning=None,
            filesystem=table.system,
            override_num_blocks=blocks,
            file_extensions=None,
        )
    return ray.data.read_csv(
        list(table.files),
        partitioning=None,  # type: ignore[arg-type]  # None works, though Ray's type omits it
        filesystem=table.system,
        override_num_blocks=blocks,
        file_extensions=None,
        **csv_options(table),
    )
