"""From a study to its cells on one data set: placeholders filled in, settings checked, what does not apply left out with its reason."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distributed.config import Config, apply_changes, split_list
from distributed.studies.definition import Cell, Choice, Study, dotted_names

PLACEHOLDER = re.compile(r"\{([\w.]+(?:=\w+)?)\}")


@dataclass(frozen=True)
class DataSetCells:
    """All cells of a study on one data set, its variants and conditions in order, and what was left out and why.

    whole: of a plan that was cut down to some variants and conditions, the one before the cut.
    """

    cells: tuple[Cell, ...]
    variants: tuple[Choice, ...]
    conditions: tuple[Choice, ...]
    left_out: tuple[str, ...]
    modalities: tuple[str, ...] = ()
    whole: DataSetCells | None = None

    def narrow(self, cells: Iterable[Cell]) -> DataSetCells:
        """The plan with these of its cells only, and the variants and conditions that they have."""
        kept = tuple(cells)
        variants, conditions = {c.variant for c in kept}, {c.condition for c in kept}
        return replace(
            self,
            cells=kept,
            variants=tuple(v for v in self.variants if v.name in variants),
            conditions=tuple(c for c in self.conditions if c.name in conditions),
            whole=self.whole or self,
        )


def cells_for_data_set(
    study: Study,
    modalities: Sequence[str],
    tables: Sequence[str],
    seeds: int,
    extra: Mapping[str, Any] | None = None,
) -> DataSetCells:
    """extra: settings that win over the study's `set`, not over its variants and conditions (--set and --quick)."""
    variants, conditions = (
        [c for entry in entries for c in _expand(entry, modalities, tables)]
        for entries in (study.variants, study.conditions)
    )
    for kind, choices in (("variant", variants), ("condition", conditions)):
        twice = sorted({c.name for c in choices if sum(o.name == c.name for o in choices) > 1})
        if twice:
            raise ValueError(
                f"every {kind} needs its own name; got {', '.join(map(repr, twice))} more than once"
            )
    cells, left_out = [], []
    for condition, variant in itertools.product(conditions, variants):
        reason = _misfit(variant, condition, tables)
        if reason:
            left_out.append(reason)
            continue
        fitted = (
            _on_tables(variant, condition, tables)
            if variant.model == "boosting"
            else (variant, condition)
        )
        cells += [
            _cell(study, *fitted, {**(extra or {}), "optim.seed": seed}) for seed in range(seeds)
        ]
    used = {c.variant for c in cells}
    kept = tuple(v for v in variants if v.name in used)
    if study.reference not in {v.name for v in variants}:
        raise ValueError(
            f"reference must be one of the variants: {', '.join(v.name for v in variants)}; got {study.reference!r}"
        )
    names = {"variant": {v.name for v in variants}, "condition": {c.name for c in conditions}}
    for claim in study.claims:
        for kind, given in (
            ("variant", claim.variant),
            ("variant", claim.against),
            *(("condition", c) for c in claim.conditions),
        ):
            if (
                given
                and not {fill_placeholders(given, _meanings(m, modalities)) for m in modalities}
                & names[kind]
            ):
                valid = ", ".join(map(repr, sorted(names[kind])))
                raise ValueError(
                    f"the claim {claim.text!r} must name a {kind} of the study: {valid}; got {given!r}"
                )
    return DataSetCells(
        tuple(cells),
        kept,
        tuple(conditions),
        tuple(dict.fromkeys(r for r in left_out if r != "-")),
        tuple(modalities),
    )


def _misfit(variant: Choice, condition: Choice, tables: Sequence[str]) -> str:
    """Why the variant has no cell under the condition; `-` where nobody would expect one."""
    if variant.model == "boosting" and not tables:
        return f"{variant.name}: the data set has no table"
    if variant.model == "boosting" and (variant.test or condition.test.keys() - {"corrupt"}):
        return f"{variant.name} under {condition.name}: gradient boosting has no experts to aggregate and no test distributions"
    if variant.model == "boosting" and not _tables_kept(variant, condition, tables):
        return f"{variant.name} under {condition.name}: no table is left to gradient boosting"
    given = (*variant.settings.values(), *variant.test.values())
    unfilled = {m for v in given if isinstance(v, str) for m in PLACEHOLDER.findall(v)} & {
        "modality",
        "others",
    }
    return "-" if unfilled - condition.bound.keys() else ""


def _tables_kept(variant: Choice, condition: Choice, tables: Sequence[str]) -> list[str]:
    """The tables among the modalities that a variant or a condition keeps."""
    asked = (
        variant.settings.get("data.modalities") or condition.settings.get("data.modalities") or ""
    )
    kept = split_list(str(fill_placeholders(asked, condition.bound)))
    return [table for table in tables if not kept or table in kept]


def _on_tables(variant: Choice, condition: Choice, tables: Sequence[str]) -> tuple[Choice, Choice]:
    """Gradient boosting keeps the tables only, whatever else the condition keeps."""
    others = {
        name: value for name, value in condition.settings.items() if name != "data.modalities"
    }
    kept = ",".join(_tables_kept(variant, condition, tables))
    return replace(variant, settings={**variant.settings, "data.modalities": kept}), replace(
        condition, settings=others
    )


def _expand(
    entry: Mapping[str, Any], modalities: Sequence[str], tables: Sequence[str]
) -> Iterator[Choice]:
    """One choice for every modality (`each`) and every combination (`grid`)."""
    kinds = {m: "table" if m in tables else "image" for m in modalities}
    grid = dotted_names(entry.get("grid", {}))
    for modality in modalities if entry.get("each") else [""]:
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values))
            meanings = {**point, **_meanings(modality, modalities)}
            only_one = list(kinds.values()).count(kinds.get(modality, "")) == 1
            yield Choice(
                name=fill_placeholders(entry["name"], meanings),
                common=fill_placeholders(
                    entry["name"],
                    {**meanings, "modality": f"the {kinds[modality]}"} if only_one else meanings,
                ),
                settings={
                    k: fill_placeholders(v, meanings)
                    for k, v in {**dotted_names(entry.get("set", {})), **point}.items()
                },
                test={k: fill_placeholders(v, meanings) for k, v in entry.get("test", {}).items()},
                model=entry.get("model", "network"),
                axis=fill_placeholders(entry.get("axis", ""), meanings),
                at=_place(fill_placeholders(entry.get("at"), meanings)),
                bound={k: v for k, v in meanings.items() if k in ("modality", "others")}
                if modality
                else {},
            )


def _meanings(modality: str, modalities: Sequence[str]) -> dict[str, str]:
    """What the placeholders stand for; {shares=KIND} gives every modality its own share of the rows."""
    share = round(1 / (len(modalities) + 1), 4)
    meanings = {
        f"shares={kind}": ",".join(f"{m}={kind}:{share}" for m in modalities)
        for kind in ("noise", "shuffle", "missing")
    }
    others = ",".join(m for m in modalities if m != modality)
    return (
        meanings
        | ({"modality": modality} if modality else {})
        | ({"others": others} if modality and others else {})
    )


def fill_placeholders(value: Any, meanings: Mapping[str, Any]) -> Any:
    """Text with the placeholders that have a meaning replaced; anything else as it is."""
    return (
        PLACEHOLDER.sub(lambda m: str(meanings.get(m[1], m[0])), value)
        if isinstance(value, str)
        else value
    )


def _place(at: Any) -> float | str | None:
    try:
        return None if at is None else float(at)
    except ValueError:
        return str(at)


def _cell(study: Study, variant: Choice, condition: Choice, extra: Mapping[str, Any]) -> Cell:
    own, tested = (
        {k: fill_placeholders(v, condition.bound) for k, v in given.items()}
        for given in (variant.settings, variant.test)
    )
    settings = {**study.settings, **extra, **condition.settings, **own}
    where = f"variant {variant.name!r} under condition {condition.name!r}"
    for mine, theirs in ((own, condition.settings), (tested, condition.test)):
        clash = sorted(k for k in mine if k in theirs and mine[k] != theirs[k])
        if clash:
            raise ValueError(
                f"a variant and a condition must not set the same thing; got {clash[0]} in {where}"
            )
    test = {**condition.test, **tested}
    unfilled = [
        v
        for v in (*settings.values(), *test.values())
        if isinstance(v, str) and PLACEHOLDER.search(v)
    ]
    if unfilled:
        raise ValueError(
            f"a placeholder must be {{modality}}, {{others}}, {{shares=KIND}} or a grid's name; got {unfilled[0]!r} in {where}"
        )
    kept = split_list(str(settings.get("data.modalities", "")))
    if kept:  # corrupting a modality that is not used changes nothing, and sharing the clean run's model saves its training
        for place, name in ((settings, "data.corrupt"), (test, "corrupt")):
            if name in place:
                place[name] = ",".join(
                    part
                    for part in split_list(str(place[name]))
                    if part.partition("=")[0].strip() in kept
                )
    try:
        apply_changes(Config(), settings)
    except ValueError as error:
        raise ValueError(f"{error} ({where})") from None
    weighing = settings.pop("inference.aggregation", "")  # nothing of the training
    if weighing != Config().inference.aggregation:
        test.setdefault("aggregation", weighing)
    return Cell(
        variant=variant.name,
        condition=condition.name,
        seed=settings["optim.seed"],
        model=variant.model,
        settings=settings,
        test={k: v for k, v in test.items() if v},
    )
