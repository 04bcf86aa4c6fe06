"""The list of forms that rows come in, and of kinds that tasks are modelled as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MULTIPLE_CHOICE_MAPPING

from lightpeft.errors import ModelError
from pipeline import choice, classify, likelihood
from pipeline.form import Form, Row, columns
from pipeline.kind import Kind

FORMS: dict[str, Form] = {form.name: form for form in (classify.FORM, choice.FORM)}
KINDS: dict[str, type[Kind]] = {
    kind.name: kind
    for kind in (
        classify.Classification,
        classify.Regression,
        choice.Choice,
        likelihood.Likelihood,
    )
}


def kind_of(card: dict[str, Any]) -> Kind:
    """The kind that a data card names."""
    return KINDS[card["kind"]](card)


def form_of(first: Sequence[Row]) -> Form:
    """The form that rows of a file have, by the names of their columns."""
    return choice.FORM if "choices" in columns(first) else classify.FORM


def resolve(form: Form, classes: Sequence[str], config: Any) -> type[Kind]:
    """How rows of a form are modelled, which may depend on the model's configuration.

    Raises:
        ModelError: not at all by this model.
    """
    if form is choice.FORM:
        return _choosing(config)
    return classify.Classification if classes else classify.Regression


def _choosing(config: Any) -> type[Kind]:
    if type(config) in MODEL_FOR_MULTIPLE_CHOICE_MAPPING:
        return choice.Choice
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not config.is_encoder_decoder:
        return likelihood.Likelihood
    raise ModelError(
        f"model type {config.model_type!r} can't choose: data.kind choice needs an encoder with a "
        f"multiple-choice head in transformers, such as bert, or a decoder, such as llama"
    )
