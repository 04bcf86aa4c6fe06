"""The tasks that rows can be modelled as. A new task is a module and a line in `_TASKS`."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PretrainedConfig

from pipeline.common.data_card import DataCard
from pipeline.common.errors import ConfigError
from pipeline.common.params import DataSection
from pipeline.tasks import generation_schema, text_classification
from pipeline.tasks.base import Task
from pipeline.tasks.image_classification import ImageClassification
from pipeline.tasks.multi_label_classification import MultiLabelClassification, has_label_lists
from pipeline.tasks.multiple_choice import MultipleChoice
from pipeline.tasks.multiple_choice_lm import MultipleChoiceLM
from pipeline.tasks.question_answering import QuestionAnswering
from pipeline.tasks.schema import Row, RowSchema, list_columns
from pipeline.tasks.text_classification import TextClassification, TextRegression
from pipeline.tasks.text_generation import CausalLM, Seq2SeqLM
from pipeline.tasks.token_classification import EntityRecognition, TokenClassification

# Of the tasks of one schema, the first that supports the classes and the model is chosen; of the
# schemas, the first that matches a file's columns.
_TASKS: tuple[type[Task], ...] = (
    TextClassification,
    TextRegression,
    MultiLabelClassification,
    MultipleChoice,
    MultipleChoiceLM,
    QuestionAnswering,
    EntityRecognition,
    TokenClassification,
    ImageClassification,
    CausalLM,
    Seq2SeqLM,
)
TASKS: dict[str, type[Task]] = {task.name: task for task in _TASKS}
SCHEMAS: dict[str, RowSchema] = {task.schema.kind: task.schema for task in _TASKS}


def make_task(card: DataCard, *, title: str = "") -> Task:
    """Return the task that a data card names, bound to the card; see `Task` for the title."""
    return TASKS[card.task_name](card, title=title)


def infer_schema(section: DataSection, first: Sequence[Row]) -> RowSchema:
    """Return the schema of a file's rows, inferred from the names of its columns.

    Labels that are lists mean multi-label classification, if no other schema matches. Where
    params.yaml names columns of text, they are taken for text classification, unless data.kind
    says otherwise.
    """
    names = list_columns(first)
    named = any(key is not None for key in (section.text, section.template, section.label))
    for schema in SCHEMAS.values():
        if schema.matches_columns(names) and not (named and schema is generation_schema.SCHEMA):
            return schema
    lists = has_label_lists(section, first)
    return MultiLabelClassification.schema if lists else text_classification.SCHEMA


def choose_task(schema: RowSchema, classes: Sequence[str], config: PretrainedConfig) -> type[Task]:
    """Return the task that rows of a schema are modelled as, given their classes and the model.

    Raises:
        ConfigError: no task supports the model.
    """
    for task in _TASKS:
        if task.schema is schema and task.supports(classes, config):
            return task
    raise ConfigError(
        f"model type {config.model_type!r} does not support data.kind {schema.kind}, which needs "
        f"{schema.model_requirement}"
    )
