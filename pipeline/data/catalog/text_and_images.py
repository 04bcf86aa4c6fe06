"""Text generation, token classification, extractive question answering, image classification."""

from __future__ import annotations

from functools import partial

from pipeline.data.dataset_spec import (
    OWN_SPLITS,
    DatasetSpec,
    RowError,
    add_label,
    parse_class,
    read_first_present,
    require_list,
    require_text,
)
from pipeline.tasks.schema import Row, Template, convert_answers, make_question_prompt

_TRAIN_TEST = {"train": "train", "test": "test"}
_PARQUET_BRANCH = "refs/convert/parquet"


def convert_alpaca(row: Row) -> Row:
    """Fill Stanford's prompt, with or without an input."""
    text = "" if row["input"] is None else require_text(row, "input", allow_blank=True)
    context = ", paired with an input that provides further context" if text.strip() else ""
    field = f"### Input:\n{text}\n\n" if text.strip() else ""
    prompt = (
        f"Below is an instruction that describes a task{context}. "
        "Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{require_text(row, 'instruction')}\n\n{field}### Response:\n"
    )
    return {"prompt": prompt, "completion": row["output"]}


def convert_gsm8k(row: Row) -> Row:
    """Ask for the worked answer as published: its <<sums>>, and the final number after ####."""
    return {
        "prompt": make_question_prompt(require_text(row, "question")),
        "completion": row["answer"],
    }


def convert_chat(row: Row) -> Row:
    """Keep role and content of a chat's messages."""
    messages = require_list(row, "messages")
    if not all(isinstance(message, dict) for message in messages):
        raise RowError(f"messages must be objects, got {messages!r}")
    return {"messages": [{key: m[key] for key in ("role", "content")} for m in messages]}


def make_summarization_template(document: str, summary: str) -> Template:
    """Return a template for a document and its summary; T5 was trained with "summarize:".

    A decoder would continue the document, so it gets a cue.
    """

    def fill_template(row: Row) -> Row:
        prompt = f"summarize: {require_text(row, document)}"
        return {"prompt": prompt, "cue": "\nsummary:", "completion": row[summary]}

    return fill_template


def make_tagging_template(column: str, classes: tuple[str, ...]) -> Template:
    """Return a template for `tokens` and a column of tag numbers, in local files also `tags`."""

    def fill_template(row: Row) -> Row:
        tags = require_list({column: read_first_present(row, column, "tags")}, column)
        return {
            "tokens": require_list(row, "tokens"),
            "tags": [_parse_tag(t, classes) for t in tags],
        }

    return fill_template


def _parse_tag(tag: object, classes: tuple[str, ...]) -> str:
    """Return a tag by its number; local files may hold its name."""
    if isinstance(tag, str):
        return tag
    if not isinstance(tag, int) or not 0 <= tag < len(classes):
        raise RowError(f"tag must be from 0 to {len(classes) - 1} or a name, got {tag!r}")
    return classes[tag]


def convert_squad(row: Row) -> Row:
    """Keep the columns that are used; an unanswerable question of SQuAD 2 has empty lists."""
    texts = {key: row[key] for key in ("question", "context")}
    return texts | {"answers": convert_answers(row["answers"])}


def make_image_template(image: str, label: str, classes: tuple[str, ...]) -> Template:
    """Return a template for images and class numbers; image folders have `image` and `label`."""

    def fill_template(row: Row) -> Row | None:
        name = parse_class(read_first_present(row, label, "label"), classes)
        return add_label({"image": read_first_present(row, image, "image")}, name)

    return fill_template


_summarization = partial(
    DatasetSpec,
    kind="text-generation",
    metric="rougeL",
    metrics=("rougeL", "rouge1", "rouge2", "perplexity"),
    splits=OWN_SPLITS,
)
_squad = partial(
    DatasetSpec,
    kind="question-answering",
    template=convert_squad,
    metric="squad_f1",
    metrics=("squad_f1", "squad_em"),
)


def _make_image_spec(
    hub_id: str, image: str, label: str, *, classes: tuple[str, ...], splits: dict[str, str]
) -> DatasetSpec:
    return DatasetSpec(
        kind="image-classification",
        hub_id=hub_id,
        template=make_image_template(image, label, classes),
        classes=classes,
        metric="accuracy",
        metrics=("accuracy", "f1_macro"),
        splits=splits,
    )


_CONLL_TAGS = ("O", *(f"{b}-{name}" for name in ("PER", "ORG", "LOC", "MISC") for b in "BI"))
_CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

GENERATION = {
    # Only train is published: validation and test are drawn from it.
    "alpaca": DatasetSpec(
        kind="text-generation",
        hub_id="tatsu-lab/alpaca",
        template=convert_alpaca,
        metric="perplexity",
        splits={"train": "train"},
    ),
    "gsm8k": DatasetSpec(
        kind="text-generation",
        hub_id="openai/gsm8k",
        configuration="main",
        template=convert_gsm8k,
        metric="final_number",
        metrics=("final_number", "perplexity"),
        splits=_TRAIN_TEST,
    ),
    "no_robots": DatasetSpec(
        kind="text-generation",
        hub_id="HuggingFaceH4/no_robots",
        template=convert_chat,
        metric="perplexity",
        splits=_TRAIN_TEST,
    ),
    "xsum": _summarization(
        hub_id="EdinburghNLP/xsum",
        revision=_PARQUET_BRANCH,
        template=make_summarization_template("document", "summary"),
    ),
    "cnn_dailymail": _summarization(
        hub_id="abisee/cnn_dailymail",
        configuration="3.0.0",
        template=make_summarization_template("article", "highlights"),
    ),
    "samsum": _summarization(
        hub_id="knkarthick/samsum", template=make_summarization_template("dialogue", "summary")
    ),
}
TOKENS = {
    "conll2003": DatasetSpec(
        kind="token-classification",
        hub_id="eriktks/conll2003",
        revision=_PARQUET_BRANCH,
        template=make_tagging_template("ner_tags", _CONLL_TAGS),
        classes=_CONLL_TAGS,
        metric="entity_f1",
        metrics=("entity_f1", "token_accuracy"),
        splits=OWN_SPLITS,
    ),
}
QUESTION_ANSWERING = {
    "squad": _squad(hub_id="rajpurkar/squad"),
    "squad_v2": _squad(hub_id="rajpurkar/squad_v2"),
}
IMAGES = {
    "cifar10": _make_image_spec(
        "uoft-cs/cifar10", "img", "label", classes=_CIFAR10_CLASSES, splits=_TRAIN_TEST
    ),
    "mnist": _make_image_spec(
        "ylecun/mnist", "image", "label", classes=tuple("0123456789"), splits=_TRAIN_TEST
    ),
    "beans": _make_image_spec(
        "AI-Lab-Makerere/beans",
        "image",
        "labels",
        classes=("angular_leaf_spot", "bean_rust", "healthy"),
        splits=OWN_SPLITS,
    ),
}
