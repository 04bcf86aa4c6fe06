"""The list of forms that rows come in, and of kinds that tasks are modelled as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from lightpeft.config import DataSection
from lightpeft.errors import ModelError
from pipeline import classify, generate
from pipeline.form import Form, Row, columns
from pipeline.generation import Causal, Seq2Seq
from pipeline.kind import Kind

FORMS: dict[str, Form] = {form.name: form for form in (classify.FORM, generate.FORM)}
KINDS: dict[str, type[Kind]] = {
    kind.name: kind for kind in (classify.Classification, classify.Regression, Causal, Seq2Seq)
}


def kind_of(card: dict[str, Any]) -> Kind:
    """The kind that a data card names."""
    return KINDS[card["kind"]](card)


def form_of(section: DataSection, first: Sequence[Row]) -> Form:
    """The form that rows of a file have, by the names of their columns.

    Columns that params.yaml names are of a classification, unless data.kind says otherwise.
    """
    if section.text is not None or section.label is not None:
        return classify.FORM
    names = columns(first)
    return next((form for form in FORMS.values() if form.fits(names)), classify.FORM)


def resolve(form: Form, classes: Sequence[str], config: Any) -> type[Kind]:
    """How rows of a form are modelled, which may depend on the model's configuration.

    Raises:
        ModelError: the model can't do it.
    """
    if form.name == "generate":
        return _writer(config)
    return classify.Classification if classes else classify.Regression


def _writer(config: Any) -> type[Kind]:
    if config.is_encoder_decoder:
        return Seq2Seq
    model_type = config.model_type
    # Models with a language head for both are encoders, unless their configuration says otherwise.
    encoder = model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (
        encoder and not getattr(config, "is_decoder", False)
    ):
        raise ModelError(
            f"a model of type {model_type!r} can't generate text; for this task model.name must be "
            "a decoder such as llama, or an encoder-decoder such as t5"
        )
    return Causal
