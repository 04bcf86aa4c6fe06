"""The list of forms that rows come in, and of kinds that tasks are modelled as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline import answer, classify, image, tokens
from pipeline.form import Form, Row, columns
from pipeline.kind import Kind

FORMS: dict[str, Form] = {
    form.name: form for form in (classify.FORM, tokens.FORM, answer.FORM, image.FORM)
}
KINDS: dict[str, type[Kind]] = {
    kind.name: kind
    for kind in (
        classify.Classification,
        classify.Regression,
        tokens.Tags,
        tokens.Entities,
        answer.Answer,
        image.ImageClassification,
    )
}


def kind_of(card: dict[str, Any]) -> Kind:
    """The kind that a data card names."""
    return KINDS[card["kind"]](card)


def form_of(first: Sequence[Row]) -> Form:
    """The form that rows of a file have, by the names of their columns."""
    names = columns(first)
    return next((form for form in FORMS.values() if form.fits(names)), classify.FORM)


def resolve(form: Form, classes: Sequence[str], config: Any) -> type[Kind]:
    """How rows of a form are modelled, which may depend on the model's configuration."""
    if form is answer.FORM:
        return answer.Answer
    if form is image.FORM:
        return image.ImageClassification
    if form is tokens.FORM:
        return tokens.kind_for(classes)
    return classify.Classification if classes else classify.Regression
