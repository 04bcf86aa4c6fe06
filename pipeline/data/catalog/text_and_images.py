"""Generation, sequence to sequence, token classification, extractive answers, and images."""

from __future__ import annotations

from pipeline.data.dataset_spec import Entry, cell, class_name, labelled, text_of
from pipeline.tasks.schema import Row, Template, as_lists, ask

_ALL = {"train": "train", "validation": "validation", "test": "test"}
_TRAIN_TEST = {"train": "train", "test": "test"}
_PARQUET = "refs/convert/parquet"
_ROUGE = ("rougeL", "rouge1", "rouge2", "perplexity")
_SQUAD = ("squad_f1", "squad_em")
_OUTSIDE = "O"


def alpaca(row: Row) -> Row:
    """Stanford's prompt, with or without an input."""
    given = "" if row["input"] is None else text_of(row, "input", blank=True)
    context = ", paired with an input that provides further context" if given.strip() else ""
    field = f"### Input:\n{given}\n\n" if given.strip() else ""
    prompt = (
        f"Below is an instruction that describes a task{context}. "
        "Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{text_of(row, 'instruction')}\n\n{field}### Response:\n"
    )
    return {"prompt": prompt, "completion": row["output"]}


def gsm8k(row: Row) -> Row:
    """The worked answer as published, with its <<sums>>; the final number stands after ####."""
    return {"prompt": ask(text_of(row, "question")), "completion": row["answer"]}


def chat(row: Row) -> Row:
    """The messages of a chat."""
    return {"messages": [{key: m[key] for key in ("role", "content")} for m in row["messages"]]}


def summary(document: str, short: str) -> Template:
    """A template for a long and a short column; `summarize:` is what T5 was trained with.

    A decoder would go on with the long text, so it gets a cue.
    """

    def template(row: Row) -> Row:
        prompt = f"summarize: {text_of(row, document)}"
        return {"prompt": prompt, "cue": "\nsummary:", "completion": row[short]}

    return template


def tagged(column: str, classes: tuple[str, ...]) -> Template:
    """A template for `tokens` and a column of tag numbers, which in files may be `tags`."""

    def template(row: Row) -> Row:
        tags = [_tag(tag, classes) for tag in cell(row, column, "tags")]
        return {"tokens": list(row["tokens"]), "tags": tags}

    return template


def _tag(tag: int | str, classes: tuple[str, ...]) -> str:
    """A tag by its number; files may hold its name."""
    return tag if isinstance(tag, str) else classes[tag]


def squad(row: Row) -> Row:
    """As SQuAD has it; a question of SQuAD 2 without an answer has empty lists."""
    texts = {key: row[key] for key in ("question", "context")}
    return {"id": row.get("id")} | texts | {"answers": as_lists(row["answers"])}


def picture(image: str, label: str, classes: tuple[str, ...]) -> Template:
    """A template for a column of images and one of class numbers; folders have image and label."""

    def template(row: Row) -> Row | None:
        name = class_name(cell(row, label, "label"), classes)
        return labelled({"image": cell(row, image, "image")}, name)

    return template


def _summaries(
    home: str,
    *columns: str,
    configuration: str | None = None,
    revision: str | None = None,
) -> Entry:
    return Entry(
        kind="generate",
        home=home,
        configuration=configuration,
        revision=revision,
        template=summary(*columns),
        metric=_ROUGE[0],
        metrics=_ROUGE,
        splits=_ALL,
    )


def _pictures(
    home: str, image: str, label: str, *, classes: tuple[str, ...], splits: dict[str, str]
) -> Entry:
    return Entry(
        kind="image",
        home=home,
        template=picture(image, label, classes),
        classes=classes,
        metric="accuracy",
        metrics=("accuracy", "f1_macro"),
        splits=splits,
    )


def _answers(home: str) -> Entry:
    return Entry(kind="answer", home=home, template=squad, metric=_SQUAD[0], metrics=_SQUAD)


_CONLL = (_OUTSIDE, *(f"{b}-{name}" for name in ("PER", "ORG", "LOC", "MISC") for b in "BI"))
_CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

GENERATION = {
    # One split: validation and test are taken from train.
    "alpaca": Entry(
        kind="generate",
        home="tatsu-lab/alpaca",
        template=alpaca,
        metric="perplexity",
        splits={"train": "train"},
    ),
    "gsm8k": Entry(
        kind="generate",
        home="openai/gsm8k",
        configuration="main",
        template=gsm8k,
        metric="final_number",
        metrics=("final_number", "perplexity"),
        splits=_TRAIN_TEST,
    ),
    "no_robots": Entry(
        kind="generate",
        home="HuggingFaceH4/no_robots",
        template=chat,
        metric="perplexity",
        splits=_TRAIN_TEST,
    ),
    "xsum": _summaries("EdinburghNLP/xsum", "document", "summary", revision=_PARQUET),
    "cnn_dailymail": _summaries(
        "abisee/cnn_dailymail", "article", "highlights", configuration="3.0.0"
    ),
    "samsum": _summaries("knkarthick/samsum", "dialogue", "summary"),
}
TOKENS = {
    "conll2003": Entry(
        kind="tokens",
        home="eriktks/conll2003",
        revision=_PARQUET,
        template=tagged("ner_tags", _CONLL),
        classes=_CONLL,
        metric="entity_f1",
        metrics=("entity_f1", "token_accuracy"),
        splits=_ALL,
    ),
}
ANSWERS = {"squad": _answers("rajpurkar/squad"), "squad_v2": _answers("rajpurkar/squad_v2")}
IMAGES = {
    "cifar10": _pictures("uoft-cs/cifar10", "img", "label", classes=_CIFAR10, splits=_TRAIN_TEST),
    "mnist": _pictures(
        "ylecun/mnist", "image", "label", classes=tuple("0123456789"), splits=_TRAIN_TEST
    ),
    "beans": _pictures(
        "AI-Lab-Makerere/beans",
        "image",
        "labels",
        classes=("angular_leaf_spot", "bean_rust", "healthy"),
        splits=_ALL,
    ),
}
