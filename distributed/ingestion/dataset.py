"""The raw table as a Ray dataset, divided into tasks by what its images cost."""

from __future__ import annotations

from collections.abc import Sequence

import ray.data

from distributed.raw.reading import csv_options
from distributed.raw.table import RawTable

# A task that decodes should take a second or more: Ray Data looks for finished tasks every 0.1 s,
# and a task waits for two or three looks.
TASK_SECONDS = 1.5
IMAGE_SECONDS, PIXEL_SECONDS = 2.5e-4, 8e-9  # about what an image costs, and each of its pixels
MIN_TASK_ROWS = 50
MAX_TASKS = 4000
TASKS_PER_CPU = 4  # so that no CPU waits long for the last task
CSV_ROW_BYTES = 100  # a guess, where the number of rows is not known


def task_count(rows: int, pixels: Sequence[float], cpus: int) -> int:
    """Returns how many tasks should prepare the rows.

    pixels: number of pixels of each image in a row. Images cost much more than their bytes say.
    """
    seconds = sum(IMAGE_SECONDS + PIXEL_SECONDS * p for p in pixels)
    wanted = max(TASKS_PER_CPU * cpus, int(rows * seconds / TASK_SECONDS))
    return max(1, min(MAX_TASKS, rows // MIN_TASK_ROWS, wanted))


def ray_dataset(
    table: RawTable, columns: Sequence[str], pixels: Sequence[float], cpus: int
) -> ray.data.Dataset:
    """Returns a Ray dataset of the table's rows, in order; a CSV is read with all its columns.

    pixels: number of pixels of each image in a row.
    """
    # Without images the number of blocks is Ray Data's own choice, by bytes.
    rows = table.rows or table.size // CSV_ROW_BYTES
    blocks = task_count(rows, pixels, cpus) if pixels else None
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
