"""Rows as the hub's data sets have them, by named task, each with the row that it becomes."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
Pairs = dict[str, tuple[Row, Row]]


def _make_single(label: str) -> tuple[Row, Row]:
    row = {"sentence": "It rains.", "label": 1, "idx": 0}
    return row, {"text": "It rains.", "text_pair": None, "label": label}


def _make_pair(first: str, second: str, label: str, *, number: int = 1) -> tuple[Row, Row]:
    row = {first: "It rains.", second: "It is wet.", "label": number, "idx": 7}
    return row, {"text": "It rains.", "text_pair": "It is wet.", "label": label}


def _make_choice(
    row: Row, prompt: str, choices: list[str], label: int, **group: str
) -> tuple[Row, Row]:
    return row, {"prompt": prompt, "choices": choices, "label": label, **group}


CLASSIFY: Pairs = {
    "glue/cola": _make_single("acceptable"),
    "glue/sst2": _make_single("positive"),
    "glue/mrpc": _make_pair("sentence1", "sentence2", "equivalent"),
    "glue/qqp": _make_pair("question1", "question2", "duplicate"),
    "glue/stsb": (
        {"sentence1": "A man.", "sentence2": "A boy.", "label": 3.8, "idx": 0},
        {"text": "A man.", "text_pair": "A boy.", "label": 3.8},
    ),
    "glue/mnli": _make_pair("premise", "hypothesis", "contradiction", number=2),
    "glue/mnli-mismatched": _make_pair("premise", "hypothesis", "neutral"),
    "glue/qnli": _make_pair("question", "sentence", "entailment", number=0),
    "glue/rte": _make_pair("sentence1", "sentence2", "not_entailment"),
    "glue/wnli": _make_pair("sentence1", "sentence2", "entailment"),
    "super_glue/boolq": _make_pair("question", "passage", "True"),
    "super_glue/cb": _make_pair("premise", "hypothesis", "contradiction"),
    "super_glue/rte": _make_pair("premise", "hypothesis", "entailment", number=0),
}
SUPER: Pairs = {
    "super_glue/copa": _make_choice(
        {
            "premise": "My body cast a shadow over the grass.",
            "choice1": "The sun was rising.",
            "choice2": "The grass was cut.",
            "question": "cause",
            "idx": 0,
            "label": 0,
        },
        "My body cast a shadow over the grass because",
        ["the sun was rising.", "the grass was cut."],
        0,
    ),
    "super_glue/multirc": (
        {
            "paragraph": "Susan had a party.",
            "question": "Who had a party?",
            "answer": "Susan",
            "idx": {"paragraph": 3, "question": 12, "answer": 40},
            "label": 1,
        },
        {
            "text": "Susan had a party.",
            "text_pair": "Who had a party? Susan",
            "group": "3-12",
            "label": "True",
        },
    ),
    "super_glue/record": (
        {
            "passage": "Ann Lee met Bob.\n@highlight\nThey met in Rome\n@highlight\nIt rained",
            "query": "@placeholder was born in Paris.",
            "entities": ["Bob", "Lee", "Ann Lee", "Bob"],
            "entity_spans": {"text": ["Ann Lee", "Bob"], "start": [0, 12], "end": [7, 15]},
            "answers": ["Ann Lee", "Lee"],
            "idx": {"passage": 0, "query": 1},
        },
        {
            "prompt": "Ann Lee met Bob. They met in Rome. It rained\n"
            "Which name fills the blank? _ was born in Paris.\nAnswer:",
            "choices": ["Bob", "Lee", "Ann Lee"],
            "label": 2,
            "answers": ["Ann Lee", "Lee"],
            "group": "0",
        },
    ),
    "super_glue/wic": (
        {
            "word": "place",
            "sentence1": "Do you want to come over to my place later?",
            "sentence2": "A political system with no place for the less prominent groups.",
            "start1": 31,
            "start2": 27,
            "end1": 36,
            "end2": 32,
            "idx": 0,
            "label": 0,
        },
        {
            "text": "place: Do you want to come over to my place later?",
            "text_pair": "A political system with no place for the less prominent groups.",
            "label": "False",
        },
    ),
    "super_glue/wsc": (
        {
            # A quotation mark before the span, and two spaces: words are counted as split() does.
            "text": 'The "city councilmen refused  the demonstrators a permit: they.',
            "span1_index": 1,
            "span2_index": 8,
            "span1_text": "city councilmen",
            "span2_text": "they",
            "idx": 0,
            "label": 1,
        },
        {
            "text": 'The "*city councilmen* refused  the demonstrators a permit: #they#.',
            "text_pair": None,
            "label": "True",
            "group": 'The "city councilmen refused  the demonstrators a permit: they.',
        },
    ),
}

_SUMMARY = {"prompt": "summarize: Long text.", "cue": "\nsummary:", "completion": "Short."}
_SQUAD = {
    "question": "Who?",
    "context": "Ann did.",
    "answers": {"text": ["Ann", "Ann did"], "answer_start": [0, 0]},
}
_LETTERS = {"text": ["bank", "mall"], "label": ["A", "B"]}
_WINO = _make_choice(
    {
        "sentence": "Ian ate the fish, as _ was hungry.",
        "option1": "Ian",
        "option2": "the fish",
        "answer": "2",
    },
    "Ian ate the fish, as",
    ["Ian was hungry.", "the fish was hungry."],
    1,
)
_WINO[1]["group"] = "Ian / the fish"
_ARC = _make_choice(
    {"id": "Mercury_1", "question": "Where? ", "choices": _LETTERS, "answerKey": "B"},
    "Question: Where?\nAnswer:",
    ["bank", "mall"],
    1,
)
_ENDINGS = ["[substeps] He stops.", "He  runs.", "c", "d"]

OTHERS: Pairs = {
    "arc-easy": _ARC,
    "arc-challenge": _ARC,
    "piqa": _make_choice(
        {"goal": "Dry a shoe.", "sol1": "Use paper.", "sol2": "Use rain.", "label": 0},
        "Question: Dry a shoe.\nAnswer:",
        ["Use paper.", "Use rain."],
        0,
    ),
    "social_iqa": _make_choice(
        {
            "context": "Tracy didn't go home. ",
            "question": "What does Tracy need?",
            "answerA": "a plan",
            "answerB": "a home",
            "answerC": "a place",
            "label": "3\n",
        },
        "Question: Tracy didn't go home. What does Tracy need?\nAnswer:",
        ["a plan", "a home", "a place"],
        2,
        group="Tracy didn't go home.",
    ),
    "hellaswag": _make_choice(
        {
            "ind": 4,
            "activity_label": "Running",
            "ctx_a": "[header] How to run [title] Warm up.",
            "ctx_b": "the man",
            "ctx": "[header] How to run [title] Warm up. the man",
            "endings": _ENDINGS,
            "source_id": "wikihow~1",
            "split": "train",
            "split_type": "indomain",
            "label": "1",
        },
        "Running: How to run. Warm up. The man",
        ["He stops.", "He runs.", "c", "d"],
        1,
    ),
    "winogrande": _WINO,
    "winogrande-debiased": _WINO,
    "openbookqa": _make_choice(
        {"id": "7-980", "question_stem": "The sun is", "choices": _LETTERS, "answerKey": "A"},
        "The sun is",
        ["bank", "mall"],
        0,
    ),
    "commonsense_qa": _make_choice(
        {
            "id": "07",
            "question": "Where?",
            "question_concept": "door",
            "choices": _LETTERS,
            "answerKey": "A",
        },
        "Question: Where?\nAnswer:",
        ["bank", "mall"],
        0,
    ),
    "boolq": _make_choice(
        {"question": "do goats faint", "answer": True, "passage": "Some goats do."},
        "Some goats do.\nQuestion: do goats faint?\nAnswer:",
        ["no", "yes"],
        1,
        group="Some goats do.",
    ),
    "alpaca": (
        {"instruction": "Translate.", "input": "Hut", "output": "Hat", "text": "Below ..."},
        {
            "prompt": "Below is an instruction that describes a task, paired with an input that "
            "provides further context. Write a response that appropriately completes the "
            "request.\n\n### Instruction:\nTranslate.\n\n### Input:\nHut\n\n### Response:\n",
            "completion": "Hat",
        },
    ),
    "gsm8k": (
        {"question": "48 and half?", "answer": "48/2=<<48/2=24>>24\n#### 72"},
        {
            "prompt": "Question: 48 and half?\nAnswer:",
            "completion": "48/2=<<48/2=24>>24\n#### 72",
        },
    ),
    "no_robots": (
        {
            "prompt": "Hi",
            "prompt_id": "f1",
            "messages": [
                {"content": "Hi", "role": "user"},
                {"content": "Hello!", "role": "assistant"},
            ],
            "category": "Chat",
        },
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello!"},
            ]
        },
    ),
    "xsum": ({"document": "Long text.", "summary": "Short.", "id": "1"}, _SUMMARY),
    "cnn_dailymail": ({"article": "Long text.", "highlights": "Short.", "id": "1"}, _SUMMARY),
    "samsum": ({"id": "1", "dialogue": "Long text.", "summary": "Short."}, _SUMMARY),
    "conll2003": (
        {
            "id": "0",
            "tokens": ["EU", "rejects", "Dean", "Palmer"],
            "pos_tags": [22, 42, 22, 22],
            "chunk_tags": [11, 21, 11, 12],
            "ner_tags": [3, 0, 1, 2],
        },
        {
            "tokens": ["EU", "rejects", "Dean", "Palmer"],
            "tags": ["B-ORG", "O", "B-PER", "I-PER"],
        },
    ),
    "squad": (_SQUAD | {"id": "57", "title": "Ann"}, _SQUAD),
    "squad_v2": (_SQUAD | {"id": "57", "title": "Ann"}, _SQUAD),
    "cifar10": ({"img": "pixels", "label": 9}, {"image": "pixels", "label": "truck"}),
    "mnist": ({"image": "pixels", "label": 4}, {"image": "pixels", "label": "4"}),
    "beans": (
        {"image_file_path": "/a.jpg", "image": "pixels", "labels": 1},
        {"image": "pixels", "label": "bean_rust"},
    ),
}
