"""Names that a user may have meant instead of one that does not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

MAX_SUGGESTIONS = 3
MAX_LISTED = 30  # valid names in one line

# What other programs call the options of these commands: each word with the options it may mean.
OPTION_SYNONYMS = {
    "answers labels target targets class classes y y_column label_column": ("label",),
    "batchsize bs": ("batch_size",),
    "budget max_time seconds time_limit timeout": ("time_budget",),
    "checkpoint_path ckpt model model_path run weights": ("checkpoint",),
    "class_prior priors": ("prior",),
    "columns_to_drop exclude ignore": ("drop",),
    "config_file settings": ("config",),
    "continue resume_from": ("resume",),
    "corruption noise": ("corrupt",),
    "csv dataset data_dir data_path file input path records table_path": ("table", "data"),
    "destination dir directory folder output output_dir save_dir": ("out",),
    "device cuda gpu num_gpus": ("gpus", "gpus_per_worker", "gpus_per_actor"),
    "force replace": ("overwrite",),
    "group_by groups patient": ("group",),
    "ids key": ("id",),
    "image_column image_dir images image_folder img photos pictures": ("image",),
    "jobs max_concurrent n_jobs parallel": ("concurrent", "concurrency", "workers"),
    "n_seeds num_seeds seed": ("seeds",),
    "n_trials num_samples num_trials": ("trials",),
    "num_workers processes world_size": ("workers",),
    "objective": ("metric",),
    "random_seed random_state": ("seed",),
    "scheduler": ("stopper",),
    "search_space": ("space",),
    "size resolution": ("image_size",),
    "splits test_size": ("split",),
}


def squashed(name: str) -> str:
    """Returns a name by which spellings are compared: learning-rate and LearningRate are one."""
    return re.sub(r"[\W_]", "", name.lower())


def synonyms(table: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Returns the names that each word may mean; several words of the same meaning share a key."""
    return {
        squashed(word): tuple(names) for words, names in table.items() for word in words.split()
    }


def close_names(name: str, valid: Iterable[str]) -> list[str]:
    """Returns the valid names that are spelt like this one, the closest first.

    Swapped letters are the commonest slip: --lable is --label and not --table.
    """
    by_spelling = {squashed(other): other for other in reversed(list(valid))}
    word = squashed(name)
    swapped = [spelling for spelling in by_spelling if sorted(spelling) == sorted(word)]
    close = difflib.get_close_matches(word, by_spelling, n=MAX_SUGGESTIONS, cutoff=0.7)
    return [by_spelling[spelling] for spelling in swapped or close]


def did_you_mean(names: Sequence[str]) -> str:
    """Returns the question "did you mean a or b?"; "" without names."""
    return f"did you mean {' or '.join(names)}?" if names else ""


def valid_names(name: str, valid: Iterable[str]) -> str:
    """Returns what could stand in the place of a wrong name: what is close to it, and all names."""
    known = list(dict.fromkeys(valid))
    question = did_you_mean([repr(close) for close in close_names(name, known)[:1]])
    more = f" and {len(known) - MAX_LISTED} more" if len(known) > MAX_LISTED else ""
    quoted = any("," in other for other in known)
    shown = [repr(other) if quoted else other for other in known[:MAX_LISTED]]
    listed = f"valid: {', '.join(shown) or 'there is none'}{more}"
    return f"{question} {listed}" if question else listed


def options_by_meaning(name: str, options: Sequence[str]) -> list[str]:
    """Returns the options of a command that another program calls by this name."""
    same = [option for option in options if squashed(option) == squashed(name)]
    meant = synonyms(OPTION_SYNONYMS).get(squashed(name), ())
    return same or [option for option in meant if option in options]


def options_by_letters(name: str, options: Sequence[str]) -> list[str]:
    """Returns the options whose beginning the name is, else those that are spelt like it."""
    begun = [option for option in options if len(name) > 2 and option.startswith(name)]
    return begun or close_names(name, options)
