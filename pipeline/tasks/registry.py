"""The list of forms that rows come in, and of kinds that tasks are modelled as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
)

from pipeline.common.data_card import DataCard
from pipeline.common.errors import ConfigError
from pipeline.common.params import DataSection
from pipeline.tasks import generation_schema as generate
from pipeline.tasks import image_classification as image
from pipeline.tasks import multiple_choice as choice
from pipeline.tasks import question_answering as answer
from pipeline.tasks import text_classification as classify
from pipeline.tasks import token_classification as tokens
from pipeline.tasks.base import Kind
from pipeline.tasks.multiple_choice_lm import Likelihood
from pipeline.tasks.schema import Form, Row, columns
from pipeline.tasks.text_generation import Causal, Seq2Seq

FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        classify.FORM,
        choice.FORM,
        answer.FORM,
        tokens.FORM,
        image.FORM,
        generate.FORM,
    )
}
KINDS: dict[str, type[Kind]] = {
    kind.name: kind
    for kind in (
        classify.Classification,
        classify.Regression,
        choice.Choice,
        Likelihood,
        Causal,
        Seq2Seq,
        tokens.Tags,
        tokens.Entities,
        answer.Answer,
        image.ImageClassification,
    )
}


def kind_of(card: DataCard) -> Kind:
    """The kind that a data card names."""
    return KINDS[card.kind](card)


def form_of(section: DataSection, first: Sequence[Row]) -> Form:
    """The form that rows of a file have, by the names of their columns.

    Columns of text that params.yaml names are a classification's, unless data.kind says otherwise.
    """
    names, named = columns(first), section.text is not None or section.label is not None
    fitting = (form for form in FORMS.values() if form.fits(names))
    return next((form for form in fitting if form is not generate.FORM or not named), classify.FORM)


def resolve(form: Form, classes: Sequence[str], config: Any) -> type[Kind]:
    """How rows of a form are modelled, which may depend on the model's configuration.

    Raises:
        ConfigError: the model can't do it.
    """
    if form is choice.FORM:
        return _choosing(config)
    if form is generate.FORM:
        return _writing(config)
    if form is answer.FORM:
        return answer.Answer
    if form is image.FORM:
        return image.ImageClassification
    if form is tokens.FORM:
        return tokens.kind_for(classes)
    return classify.Classification if classes else classify.Regression


def _choosing(config: Any) -> type[Kind]:
    if config.model_type in MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES:
        return choice.Choice
    if _is_decoder(config):
        return Likelihood
    raise ConfigError(
        f"model type {config.model_type!r} can't choose: data.kind choice needs an encoder with a "
        f"multiple-choice head in transformers, such as bert, or a decoder, such as llama"
    )


def _writing(config: Any) -> type[Kind]:
    if config.is_encoder_decoder:
        return Seq2Seq
    if _is_decoder(config):
        return Causal
    raise ConfigError(
        f"model type {config.model_type!r} can't generate text: data.kind generate needs a "
        "decoder, such as llama, or an encoder-decoder, such as t5"
    )


def _is_decoder(config: Any) -> bool:
    """Models with a language head for both are encoders, unless their configuration says so."""
    if config.is_encoder_decoder or config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return False
    both = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return not both or bool(getattr(config, "is_decoder", False))
