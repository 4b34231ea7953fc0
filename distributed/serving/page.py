"""The page of a service: a form with the model's columns, and the answer beside it."""

from __future__ import annotations

from distributed.inference.record_predictor import RecordPredictor
from distributed.reporting.page import TEMPLATES

MAX_CHOICES = 200  # categories of a column that the form lists


def service_page(predictor: RecordPredictor, *, needs_token: bool) -> str:
    """Returns the HTML of the page."""
    categories = {name: values[:MAX_CHOICES] for name, values in predictor.categories.items()}
    return TEMPLATES.get_template("service.html.j2").render(
        images=predictor.images,
        numbers=predictor.numbers,
        categories=categories,
        classes=predictor.checkpoint.network.schema.classes,
        needs_token=needs_token,
        coverage=None if predictor.plan.sets is None else predictor.plan.sets.coverage,
    )
