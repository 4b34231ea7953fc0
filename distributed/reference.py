"""The text of docs/configuration.md: every setting and every option of every command.

It reads the options of all folders, so it comes after them in the import order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import distributed
from distributed.config import Config, setting_fields
from distributed.inference.options import EvaluateOptions, ExportOptions, PredictOptions
from distributed.ingestion.options import IngestOptions
from distributed.runtime.options import option_rows
from distributed.searches.options import SearchOptions
from distributed.serving.options import ServeOptions
from distributed.studies.options import StudyOptions
from distributed.training.options import FitOptions
from distributed.wafers.options import WaferOptions

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

COMMANDS: dict[str, type[DataclassInstance]] = {
    "ingest.py": IngestOptions,
    "train.py": FitOptions,
    "tune.py": SearchOptions,
    "ablate.py": StudyOptions,
    "evaluate.py": EvaluateOptions,
    "predict.py": PredictOptions,
    "serve.py": ServeOptions,
    "export.py": ExportOptions,
    "python -m distributed.wafers": WaferOptions,
}
INTRODUCTION = """# Settings and options

Written by `python distributed/describe.py` from the declarations in the code; do not edit.

A **setting** belongs to the model and its training. It has one dotted name, `loss.margin`, in TOML
files (`--config`), on the command line (`--set loss.margin=0.4`), in search spaces, studies,
TensorBoard and reports. Defaults come first, then the file, then `--set`.

An **option** belongs to one command. In Python it is a field of the command's options:
`--time-budget` is `SearchOptions(time_budget=...)`.
"""


def configuration_page() -> str:
    """Returns the text of docs/configuration.md."""
    parts = [INTRODUCTION, *_settings(), *_options()]
    return "\n".join(parts)


def _settings() -> Iterable[str]:
    """Yields a heading and a table for every section of the settings."""
    yield "## Settings\n"
    sections: dict[str, list[str]] = {}
    for name in setting_fields():
        sections.setdefault(name.rpartition(".")[0], []).append(name)
    for section, names in sections.items():
        yield f"### {section or 'general'}\n"
        if purpose := _purpose(section):
            yield f"{purpose}\n"
        yield _table(("setting", "default", "valid", "meaning"), map(_setting_row, names))


def _purpose(section: str) -> str:
    """Returns the first line of the docstring of a section of settings."""
    if not section:
        return ""
    kind = type(getattr(Config(), section))
    text = (kind.__doc__ or "").strip().splitlines()[0]
    is_signature = text.startswith(f"{kind.__name__}(")  # written by dataclass where there is none
    return "" if is_signature else text


def _setting_row(name: str) -> tuple[str, ...]:
    field = setting_fields()[name]
    valid = field.metadata["limits"].text
    if not valid:
        valid = "true, false" if isinstance(field.default, bool) else "any text"
    return f"`{name}`", f"`{json.dumps(field.default)}`", valid, str(field.metadata["help"])


def _options() -> Iterable[str]:
    """Yields a heading and a table for every command."""
    yield "## Options of the commands\n"
    for name, kind in COMMANDS.items():
        module = "distributed" if kind.__name__ in distributed.__all__ else kind.__module__
        yield f"### {name}\n\nIn Python: `{module}.{kind.__name__}`.\n"
        rows = [
            (f"`{row.usage}`", row.default, row.valid, row.meaning) for row in option_rows(kind)
        ]
        yield _table(("option", "default", "valid", "meaning"), rows)


def _table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Returns a Markdown table."""
    lines = [heading, tuple("---" for _ in heading), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
