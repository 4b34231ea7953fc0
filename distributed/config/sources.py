"""Reads and writes settings: TOML files, --set on the command line, and the list in --help."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from distributed.config.changes import apply_changes, setting_fields
from distributed.config.settings import Config
from distributed.runtime.errors import OptionError
from distributed.runtime.storage import is_uri, read_file

WHOLE_FILE = "(whole with its last line, '# end')"  # in the first line of a settings file
LAST_LINE = "# end"


def load_config(
    file: str | Path | None = None, sets: Iterable[str] = (), base: Config | None = None
) -> Config:
    """Returns the defaults, changed by a TOML file and then by assignments.

    file: a path or URI. sets: "KEY=VALUE" each. base: stands in for the defaults.
    """
    config = base or Config()
    if file:
        config = apply_changes(config, read_config_file(file))
    return apply_changes(config, parse_assignments(sets))


def parse_assignments(pairs: Iterable[str]) -> dict[str, str]:
    """Returns "KEY=VALUE" pairs, as --set takes them, by dotted name.

    Raises OptionError for a key with two different values, of which the last would hide the first.
    """
    changes: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = (part.strip() for part in pair.partition("="))
        if not separator:
            raise OptionError(f"set takes KEY=VALUE; got {pair!r}", "set")
        if changes.setdefault(name, value) != value:
            before = changes[name]
            raise OptionError(
                f"set takes one value for {name}; got {before!r} and {value!r}", "set"
            )
    return changes


def read_config_file(path: str | Path) -> dict[str, object]:
    """Returns the settings of a TOML file by dotted name; sections and dotted keys mean the same.

    path: a local path or a URI.
    """
    place = str(path)
    try:
        content = read_file(place) if is_uri(place) else Path(path).read_bytes()
        text = content.decode()
        tree = tomllib.loads(text)
    except FileNotFoundError:
        message = f"config must name a TOML file that exists; got {place!r}"
        raise OptionError(message, "config") from None
    except OSError as error:
        message = f"config must name a TOML file that can be read; got {place!r}: {error}"
        raise OptionError(message, "config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"config must be valid TOML; {path}: {error}", "config") from None
    lines = text.rstrip().splitlines()
    if lines and WHOLE_FILE in lines[0] and lines[-1] != LAST_LINE:
        raise OptionError(
            f"config must be a whole file; {path} is cut short: its last line is not {LAST_LINE!r}",
            "config",
        )
    if not tree and LAST_LINE not in lines:
        raise OptionError(f"config must hold settings; {path} holds none", "config")
    return by_dotted_name(tree)


def by_dotted_name(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Returns the values of nested sections by dotted name."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(by_dotted_name(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def to_toml(changes: Mapping[str, object]) -> str:
    """Returns settings as the text of a TOML file, with one section for each group."""
    lines_of: dict[str, list[str]] = {}
    for name, value in sorted(changes.items()):
        section, _, key = name.rpartition(".")
        lines_of.setdefault(section, []).append(f"{key} = {_toml_value(value)}")
    sections = [
        "\n".join([f"[{section}]", *lines] if section else lines)
        for section, lines in sorted(lines_of.items())
    ]
    return "\n\n".join(sections) + "\n"


def _toml_value(value: object) -> str:
    """Returns a value as TOML writes it; its text may hold any character."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    # JSON escapes text as TOML does, but for two things: TOML knows no pairs of surrogates, which
    # stand for an emoji in ASCII JSON, and forbids a plain DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def settings_file(changes: Mapping[str, object], about: str) -> str:
    """Returns the text of a settings file whose first line says what it holds.

    A file that was cut short is often valid TOML with fewer settings or shorter numbers. So the
    first line names the last one, without which `read_config_file` refuses the file.
    """
    comment = json.dumps(about, ensure_ascii=False)[1:-1].replace("\x7f", "")
    return f"# {comment} {WHOLE_FILE}\n{to_toml(changes)}{LAST_LINE}\n"


def describe_settings() -> str:
    """Returns every setting with its default and its meaning, for the end of --help."""
    lines = ["settings for --set NAME=VALUE (name, default, meaning):"]
    for name, field in setting_fields().items():
        choices = field.metadata["limits"].choices
        listed = f" [{', '.join(choices)}]" if choices else ""
        default = json.dumps(field.default)
        lines.append(f"  {name:28} {default:12} {field.metadata['help']}{listed}")
    return "\n".join(lines)
