"""The statistics of a study as tables and sentences: scores by variant and seed, tests against the reference, claims put to the test."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from distributed.cells import PLACE, Plan, fill
from distributed.results import Row
from distributed.significance import Comparison, Summary, compare, helps, in_words, paired, signed, summarise
from distributed.study import Claim, Study
from distributed.tables import Cell, Table, number

LOWER_IS_BETTER = ("ece", "classwise_ece", "nll", "brier", "train_seconds")
SHARES = ("accuracy", "recall", "f1", "g_mean", "auroc", "auprc")
TITLES = {
    "macro_f1": "macro-F1",
    "ece": "ECE",
    "nll": "NLL",
    "macro_auroc": "macro AUROC",
    "g_mean": "G-mean",
    "mcc": "MCC",
    "brier": "Brier",
}
COLUMNS = ("macro_f1", "worst_recall", "many_shot_accuracy", "medium_shot_accuracy", "few_shot_accuracy", "accuracy", "ece")


def name_of(metric: str) -> str:
    """balanced_accuracy as a reader writes it."""
    return TITLES.get(metric, metric.replace("_shot_", "-shot ").replace("_", " "))


def in_percent(metric: str) -> bool:
    return metric.startswith(("recall/", "precision/")) or metric.endswith(SHARES)


def scale_of(metric: str) -> tuple[float, str]:
    """What a difference is multiplied by, and its unit."""
    return (100.0, "points") if in_percent(metric) else (1.0, "")


def shown(metric: str, value: float) -> str:
    return f"{100 * value:.1f}" if in_percent(metric) else f"{value:.3f}"


@dataclass(frozen=True)
class View:
    """One data set under one condition: the rows of its finished cells, and its variants in order."""

    study: Study
    data: str
    condition: str
    variants: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def finished(self) -> dict[str, int]:
        """How many cells of each variant have finished, in the variants' order."""
        return {name: n for name in self.variants if (n := sum(row["variant"] == name for row in self.rows))}

    def scores(self, metric: str) -> dict[str, dict[int, float]]:
        """{variant: {seed: value}} of the test split, for variants that have the metric at all."""
        found: dict[str, dict[int, float]] = {name: {} for name in self.variants}
        for row in self.rows:
            value = row.get(metric if metric == "train_seconds" else f"test/{metric}")
            if isinstance(value, float) and math.isfinite(value) and row["variant"] in found:
                found[row["variant"]][row["seed"]] = value
        return {name: values for name, values in found.items() if values}

    def means(self, metric: str) -> dict[str, Summary]:
        return {name: summarise(list(values.values())) for name, values in self.scores(metric).items()}

    def comparisons(self, metric: str) -> list[Comparison]:
        """Against the reference; empty where the reference itself has no score."""
        scores = self.scores(metric)
        return compare(scores, self.study.reference) if self.study.reference in scores else []


def views(study: Study, plans: Mapping[str, Plan], rows: Iterable[Row]) -> list[View]:
    """Every data set under every condition that has a finished cell."""
    done = [row for row in rows if row["state"] == "done"]
    found = []
    for data, plan in plans.items():
        for condition in plan.conditions:
            mine = tuple(r for r in done if (r["data"], r["condition"]) == (data, condition.name))
            if mine:
                found.append(View(study, data, condition.name, tuple(v.name for v in plan.variants), mine))
    return found


def mean_views(seen: Sequence[View]) -> list[View]:
    """For every condition that all data sets have: each variant's mean over the data sets, seed by seed, as if it were one more set."""
    sets = list(dict.fromkeys(v.data for v in seen))
    found = []
    for condition in dict.fromkeys(v.condition for v in seen) if len(sets) > 1 else ():
        mine = [v for v in seen if v.condition == condition]
        if len(mine) == len(sets):
            places: dict[tuple[str, int], list[Row]] = {}
            for row in (r for v in mine for r in v.rows):
                places.setdefault((row["variant"], row["seed"]), []).append(row)
            rows = tuple(_mean_row(rows) for rows in places.values() if len(rows) == len(sets))
            name = f"mean of {len(sets)} data sets"
            found.append(
                View(mine[0].study, name, condition, tuple(n for n in mine[0].variants if any(r["variant"] == n for r in rows)), rows)
            )
    return [v for v in found if v.rows]


def _mean_row(rows: Sequence[Row]) -> Row:
    """Only the metrics that every data set has."""
    shared = [n for n in rows[0] if n.startswith("test/") and all(isinstance(r.get(n), float) for r in rows)]
    return {"variant": rows[0]["variant"], "seed": rows[0]["seed"], **{n: sum(r[n] for r in rows) / len(rows) for n in shared}}


def score_table(seen: Sequence[View], metrics: Sequence[str], caption: str) -> Table:
    """Mean ± sd of every metric; the best mean of each data set and condition is bold."""
    labels = _place_columns(seen)
    head = [*labels, "variant", "seeds", *(f"{name_of(m)}{' %' if in_percent(m) else ''}" for m in metrics)]
    rows = []
    for view in seen:
        means = {m: view.means(m) for m in metrics}
        best = {m: _best(values, m) for m, values in means.items()}
        for name, count in view.finished.items():
            cells = [_mean_cell(means[m].get(name), m, name == best[m]) for m in metrics]
            rows.append([*_place_cells(view, labels), name, count, *cells])
    return Table(columns=tuple(head), rows=rows, caption=caption)


def _place_columns(seen: Sequence[View]) -> list[str]:
    """data and condition only where they vary."""
    parts = {"data": {v.data for v in seen}, "condition": {v.condition for v in seen}}
    return [name for name, values in parts.items() if len(values) > 1]


def _place_cells(view: View, labels: Sequence[str]) -> list[str]:
    return [{"data": view.data, "condition": view.condition}[name] for name in labels]


def _best(means: Mapping[str, Summary], metric: str) -> str:
    known = {name: s.mean for name, s in means.items() if s.mean is not None}
    if len(known) < 2:
        return ""
    return (min if metric in LOWER_IS_BETTER else max)(known, key=lambda name: known[name])


def _mean_cell(summary: Summary | None, metric: str, strong: bool) -> Cell | None:
    if summary is None or summary.mean is None:
        return None
    spread = "" if summary.sd is None else f" ± {shown(metric, summary.sd)}"
    return Cell(text=f"{shown(metric, summary.mean)}{spread}", value=summary.mean, strong=strong)


def gap_columns(seen: Sequence[View], metric: str) -> tuple[tuple[str, str], list[list[Cell | None]]]:
    """Difference to the reference with its interval, and Holm's p, for each row of `score_table`."""
    scale, _ = scale_of(metric)
    digits = 1 if scale == 100 else 3
    rows: list[list[Cell | None]] = []
    for view in seen:
        found = {c.name: c for c in view.comparisons(metric)}
        for name in view.finished:
            c = found.get(name)
            rows.append([None, None] if c is None or c.difference is None else [_gap_cell(c, scale, digits), _p_cell(c.t_holm)])
    return ("difference", "Holm p"), rows


def _gap_cell(c: Comparison, scale: float, digits: int) -> Cell:
    assert c.difference is not None
    between = "" if c.low is None or c.high is None else f" ({signed(c.low * scale, digits)} to {signed(c.high * scale, digits)})"
    return Cell(text=f"{signed(c.difference * scale, digits)}{between}", value=c.difference)


def _p_cell(p: float | None) -> Cell | None:
    return None if p is None else Cell(text="< 0.001" if p < 0.001 else f"{p:.3f}", value=p)


def test_table(seen: Sequence[View], metric: str, caption: str) -> Table:
    """Each variant against the reference: difference, interval, effect, both tests before and after Holm's correction, the verdict."""
    scale, _ = scale_of(metric)
    digits = 1 if scale == 100 else 3
    labels = _place_columns(seen)
    head = [*labels, "variant", "difference", "95 % interval", "Hedges g", "t p", "Holm", "Wilcoxon p", "Holm ", "shown"]
    rows = []
    for view in seen:
        for c in view.comparisons(metric):
            low, high = (None if v is None else signed(v * scale, digits) for v in (c.low, c.high))
            gap = None if c.difference is None else Cell(text=signed(c.difference * scale, digits), value=c.difference)
            between = None if low is None else f"{low} to {high}"
            p_values = [_p_cell(p) for p in (c.t_p, c.t_holm, c.wilcoxon_p, c.wilcoxon_holm)]
            effect = None if c.effect is None else Cell(text=f"{c.effect:.2f}".replace("-", "−"), value=c.effect)
            rows.append([*_place_cells(view, labels), c.name, gap, between, effect, *p_values, verdict(c, metric)])
    return Table(columns=tuple(head), rows=rows, caption=caption)


def verdict(c: Comparison, metric: str) -> str:
    good = (c.verdict == "higher") != (metric in LOWER_IS_BETTER)
    words = {"noise": "inside the noise", "equal": "equal", "untested": f"not tested: {c.reason}"}
    return words.get(c.verdict) or ("better" if good else "worse")


def summary_lines(seen: Sequence[View], metric: str) -> list[str]:
    """One line a data set and condition: who is better, who is worse, who is inside the noise."""
    lines = []
    for view in seen:
        groups: dict[str, list[str]] = {}
        for c in view.comparisons(metric):
            kind = verdict(c, metric).split(":")[0]
            size = (
                ""
                if c.difference is None or kind == "equal"
                else f" ({signed(c.difference * scale_of(metric)[0], 1 if in_percent(metric) else 3)})"
            )
            groups.setdefault(kind, []).append(f"{c.name}{size}")
        said = "; ".join(
            f"{kind}: {', '.join(groups[kind])}"
            for kind in ("better", "worse", "inside the noise", "equal", "not tested")
            if kind in groups
        )
        if said:
            lines.append(f"{view.data}, {view.condition}, {name_of(metric)} against {view.study.reference}: {said}.")
    return lines


def comparison_lines(view: View, metric: str) -> list[str]:
    scale, unit = scale_of(metric)
    options = {"scale": scale, "unit": unit, "lower_is_better": metric in LOWER_IS_BETTER}
    return [in_words(c, name_of(metric), **options) for c in view.comparisons(metric)]  # type: ignore[arg-type]


def claim_lines(study: Study, plans: Mapping[str, Plan], seen: Sequence[View]) -> list[str]:
    """Each claim of the study, on each data set and condition where it can be checked, with what was measured."""
    lines = []
    for claim in study.claims:
        for view in seen:
            for words in _bindings(claim, view, plans.get(view.data)):
                bound = replace(claim, **{n: fill(getattr(claim, n), words) for n in ("text", "metric", "against")})
                asked = {fill(name, words) for name in claim.conditions}
                said = _check(bound, view) if not asked or view.condition in asked else None
                if said:
                    lines.append(f"{view.data}, {view.condition}. {said}")
    return lines


def _bindings(claim: Claim, view: View, plan: Plan | None) -> list[Mapping[str, str]]:
    """What {modality} stands for: the condition's own, else each modality of the data set in turn."""
    own = next((c.bound for c in plan.conditions if c.name == view.condition), {}) if plan else {}
    if own or not PLACE.search(claim.text + claim.metric + claim.against):
        return [own]
    return [{"modality": m} for m in plan.modalities] if plan else []


def _check(claim: Claim, view: View) -> str | None:
    metric, scores = claim.metric, view.scores(claim.metric)
    if claim.variant not in scores or (claim.against and claim.against not in scores):
        return None
    scale, unit = scale_of(metric)
    if not claim.against:
        return _bound(claim, metric, summarise(list(scores[claim.variant].values())), 1.0 if not in_percent(metric) else 100.0, "")
    found = paired(scores[claim.variant], scores[claim.against], name=claim.variant, against=claim.against)
    if claim.at_least is None and claim.at_most is None:
        (tested,) = compare({claim.variant: scores[claim.variant], claim.against: scores[claim.against]}, claim.against)
        return helps(claim.text, tested, name_of(metric), scale=scale, unit=unit, lower_is_better=metric in LOWER_IS_BETTER)
    summary = Summary(n=found.n, mean=found.difference, low=found.low, high=found.high, reason=found.reason)
    return _bound(claim, f"{name_of(metric)}, {claim.variant} minus {claim.against}", summary, scale, unit)


def _bound(claim: Claim, what: str, found: Summary, scale: float, unit: str) -> str:
    """Whether a mean lies where the claim puts it, and whether its whole interval does."""
    if found.mean is None:
        return f"{claim.text}: not measured ({found.reason})."
    low, high = (-math.inf if claim.at_least is None else claim.at_least), (math.inf if claim.at_most is None else claim.at_most)
    on_mean = low <= found.mean <= high
    whole = found.low is not None and found.high is not None and low <= found.low and found.high <= high
    state = "holds" if whole else "holds on the mean, its interval does not" if on_mean else "does not hold"
    if on_mean and found.low is None:
        state = f"holds on the mean, untested ({found.reason})"
    limits = " and ".join(
        f"{w} {number(v * scale)}" for w, v in (("at least", claim.at_least), ("at most", claim.at_most)) if v is not None
    )
    between = (
        ""
        if found.low is None or found.high is None
        else f", 95 % interval {number(found.low * scale, 3)} to {number(found.high * scale, 3)}"
    )
    measured = f"{what.replace('_', ' ')} {number(found.mean * scale, 3)}{between}"
    return f"{claim.text}: {state} ({measured}; claimed {limits} {unit}".rstrip() + ")."
