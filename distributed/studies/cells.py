"""Turns a study into its cells on one data set.

Placeholders are filled in and settings checked; what cannot be run there is left out with a reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from distributed.config import Config, apply_changes, by_dotted_name, split_list
from distributed.studies.definition import Cell, Choice, Claim, Entry, Settings, Study
from distributed.studies.placeholders import (
    PLACEHOLDER,
    Meanings,
    fill_all,
    fill_text,
    modality_placeholders,
    placeholder_meanings,
)


@dataclass(frozen=True)
class DataSetCells:
    """All cells of a study on one data set, with its variants and conditions in order.

    left_out: why combinations of variant and condition have no cell.
    whole: what this is a part of, if --variants or --conditions took only some of the cells.
    """

    cells: tuple[Cell, ...]
    variants: tuple[Choice, ...]
    conditions: tuple[Choice, ...]
    left_out: tuple[str, ...]
    modalities: tuple[str, ...] = ()
    whole: DataSetCells | None = None

    def keep(self, cells: Iterable[Cell]) -> DataSetCells:
        """The part with these cells only, and the variants and conditions that they have."""
        kept = tuple(cells)
        variants, conditions = {c.variant for c in kept}, {c.condition for c in kept}
        return replace(
            self,
            cells=kept,
            variants=tuple(v for v in self.variants if v.name in variants),
            conditions=tuple(c for c in self.conditions if c.name in conditions),
            whole=self.whole or self,
        )

    def placeholders(self, condition: str) -> Mapping[str, str]:
        """What {modality} and {others} stand for under a condition; empty where it has none."""
        return next((c.placeholders for c in self.conditions if c.name == condition), {})


def cells_for_data_set(
    study: Study,
    modalities: Sequence[str],
    tables: Sequence[str],
    seeds: int,
    extra: Mapping[str, object] | None = None,
) -> DataSetCells:
    """All cells of the study on a data set with these modalities, of which some are tables.

    extra: settings that win over the study's `set`, but not over its variants and conditions
    (from --set and --quick).
    """
    variants, conditions = (
        [choice for entry in entries for choice in _choices(entry, modalities, tables)]
        for entries in (study.variants, study.conditions)
    )
    _check_unique("variant", variants)
    _check_unique("condition", conditions)
    cells: list[Cell] = []
    left_out: list[str] = []
    for condition, variant in itertools.product(conditions, variants):
        reason = _why_boosting_cannot_run(variant, condition, tables)
        if reason:
            left_out.append(reason)
        elif not _lacks_a_modality(variant, condition):
            pair = (variant, condition)
            if variant.model == "boosting":
                pair = _restrict_to_tables(variant, condition, tables)
            for seed in range(seeds):
                cells.append(_cell(study, *pair, {**(extra or {}), "optim.seed": seed}))
    if study.reference not in {v.name for v in variants}:
        raise ValueError(
            f"reference must be one of the variants: {', '.join(v.name for v in variants)}; "
            f"got {study.reference!r}"
        )
    for claim in study.claims:
        _check_claim(claim, variants, conditions, modalities)
    used = {cell.variant for cell in cells}
    return DataSetCells(
        cells=tuple(cells),
        variants=tuple(v for v in variants if v.name in used),
        conditions=tuple(conditions),
        left_out=tuple(dict.fromkeys(left_out)),
        modalities=tuple(modalities),
    )


def _check_unique(kind: str, choices: Sequence[Choice]) -> None:
    names = [choice.name for choice in choices]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        listed = ", ".join(map(repr, repeated))
        raise ValueError(f"every {kind} needs its own name; got {listed} more than once")


def _check_claim(
    claim: Claim,
    variants: Sequence[Choice],
    conditions: Sequence[Choice],
    modalities: Sequence[str],
) -> None:
    """Refuses a claim about variants or conditions that the study does not have."""
    variant_names, condition_names = {v.name for v in variants}, {c.name for c in conditions}
    compared = [name for name in (claim.variant, claim.against) if name]
    for kind, given_names, valid_names in (
        ("variant", compared, variant_names),
        ("condition", claim.conditions, condition_names),
    ):
        for given in given_names:
            filled = {fill_text(given, placeholder_meanings(m, modalities)) for m in modalities}
            if not filled & valid_names:
                valid = ", ".join(map(repr, sorted(valid_names)))
                raise ValueError(
                    f"the claim {claim.text!r} must name a {kind} of the study: {valid}; "
                    f"got {given!r}"
                )


def _why_boosting_cannot_run(variant: Choice, condition: Choice, tables: Sequence[str]) -> str:
    """Why a boosting variant has no cell under the condition; empty where it has one."""
    if variant.model != "boosting":
        return ""
    if not tables:
        return f"{variant.name}: the data set has no table"
    where = f"{variant.name} under {condition.name}"
    if variant.test or condition.test.keys() - {"corrupt"}:
        return f"{where}: gradient boosting has no experts to aggregate and no test distributions"
    if not _tables_in_use(variant, condition, tables):
        return f"{where}: no table is left to gradient boosting"
    return ""


def _lacks_a_modality(variant: Choice, condition: Choice) -> bool:
    """Whether the variant names {modality} or {others} and the condition does not say which."""
    values = (*variant.settings.values(), *variant.test.values())
    used = {name for v in values if isinstance(v, str) for name in PLACEHOLDER.findall(v)}
    return bool((used & {"modality", "others"}) - condition.placeholders.keys())


def _tables_in_use(variant: Choice, condition: Choice, tables: Sequence[str]) -> list[str]:
    """The tables among the modalities that the variant, or else the condition, keeps."""
    setting = (
        variant.settings.get("data.modalities") or condition.settings.get("data.modalities") or ""
    )
    kept = split_list(fill_text(str(setting), condition.placeholders))
    return [table for table in tables if not kept or table in kept]


def _restrict_to_tables(
    variant: Choice, condition: Choice, tables: Sequence[str]
) -> tuple[Choice, Choice]:
    """Both choices for gradient boosting: the tables only, whatever else the condition keeps."""
    settings = {**condition.settings}
    settings.pop("data.modalities", None)
    kept = ",".join(_tables_in_use(variant, condition, tables))
    return (
        replace(variant, settings={**variant.settings, "data.modalities": kept}),
        replace(condition, settings=settings),
    )


def _choices(entry: Entry, modalities: Sequence[str], tables: Sequence[str]) -> Iterator[Choice]:
    """One choice for every modality (`each`) and every combination of values (`grid`)."""
    grid = by_dotted_name(entry.get("grid", {}))
    values_of = [values for values in grid.values() if isinstance(values, list)]
    for modality in modalities if entry.get("each") else [""]:
        for values in itertools.product(*values_of):
            point = dict(zip(grid, values, strict=True))
            meanings = {**point, **placeholder_meanings(modality, modalities)}
            yield Choice(
                name=fill_text(entry["name"], meanings),
                common_name=_common_name(entry["name"], modality, meanings, modalities, tables),
                settings=fill_all({**by_dotted_name(entry.get("set", {})), **point}, meanings),
                test={k: fill_text(v, meanings) for k, v in entry.get("test", {}).items()},
                model=entry.get("model", "network"),
                axis=fill_text(entry.get("axis", ""), meanings),
                at=_axis_value(entry, meanings),
                placeholders=modality_placeholders(modality, modalities) if modality else {},
            )


def _common_name(
    name: str,
    modality: str,
    meanings: Meanings,
    modalities: Sequence[str],
    tables: Sequence[str],
) -> str:
    """The choice's name over data sets: their only image may be called differently in each."""
    if modality:
        is_table = modality in tables
        if sum((other in tables) == is_table for other in modalities) == 1:
            kind = "the table" if is_table else "the image"
            return fill_text(name, {**meanings, "modality": kind})
    return fill_text(name, meanings)


def _axis_value(entry: Entry, meanings: Meanings) -> float | str | None:
    """`at` as a number if it is one."""
    if "at" not in entry:
        return None
    value = entry["at"]
    text = fill_text(value, meanings) if isinstance(value, str) else value
    try:
        return float(text)
    except ValueError:
        return str(text)


def _cell(study: Study, variant: Choice, condition: Choice, extra: Settings) -> Cell:
    """The cell of a variant under a condition, its settings checked."""
    where = f"variant {variant.name!r} under condition {condition.name!r}"
    own_settings = fill_all(variant.settings, condition.placeholders)
    own_test = {k: fill_text(v, condition.placeholders) for k, v in variant.test.items()}
    _check_no_clash(own_settings, condition.settings, where)
    _check_no_clash(own_test, condition.test, where)
    settings = {**study.settings, **extra, **condition.settings, **own_settings}
    test = {**condition.test, **own_test}
    _check_filled((*settings.values(), *test.values()), where)
    kept = split_list(str(settings.get("data.modalities", "")))
    if kept:
        # Corrupting a modality that is not used changes nothing: without it, the cell shares the
        # training of the clean one.
        if "data.corrupt" in settings:
            settings["data.corrupt"] = _corruptions_of(str(settings["data.corrupt"]), kept)
        if "corrupt" in test:
            test["corrupt"] = _corruptions_of(test["corrupt"], kept)
    try:
        config = apply_changes(Config(), settings)
    except ValueError as error:
        raise ValueError(f"{error} ({where})") from None
    # How experts are weighted belongs to the test: cells that differ in it share their training.
    aggregation = str(settings.pop("inference.aggregation", ""))
    if aggregation != Config().inference.aggregation:
        test.setdefault("aggregation", aggregation)
    return Cell(
        variant=variant.name,
        condition=condition.name,
        seed=config.optim.seed,
        model=variant.model,
        settings=settings,
        test={name: value for name, value in test.items() if value},
    )


def _check_no_clash(own: Meanings, theirs: Meanings, where: str) -> None:
    clashing = sorted(name for name in own if name in theirs and own[name] != theirs[name])
    if clashing:
        raise ValueError(
            f"a variant and a condition must not set the same thing; got {clashing[0]} in {where}"
        )


def _check_filled(values: Iterable[object], where: str) -> None:
    unfilled = [v for v in values if isinstance(v, str) and PLACEHOLDER.search(v)]
    if unfilled:
        raise ValueError(
            "a placeholder must be {modality}, {others}, {shares=KIND} or a grid's name; "
            f"got {unfilled[0]!r} in {where}"
        )


def _corruptions_of(corruptions: str, modalities: Sequence[str]) -> str:
    """The corruptions of these modalities only."""
    parts = split_list(corruptions)
    return ",".join(part for part in parts if part.partition("=")[0].strip() in modalities)
