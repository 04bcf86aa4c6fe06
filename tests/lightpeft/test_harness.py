"""lm-evaluation-harness gets from a result what the pipeline computes; skipped without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.choice_workspace import draw_questions, make_tiny_decoder
from helpers.stage_workspace import WORDS, make_word_tokenizer, save_base
from helpers.task_files import write_rows
from helpers.tiny_models import draw_random_scores, make_tiny_model, make_uneven_plan
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import lightpeft
from lightpeft.cli import run
from lightpeft.core.errors import CheckpointError, ConfigError, ModelError
from pipeline.tasks.inference import enter_inference_mode
from pipeline.tasks.multiple_choice_lm import score_choices, tokenize_choices

pytest.importorskip("lm_eval")
# The harness takes ten seconds for each run. Its warnings are its own.
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("default")]

# The harness needs a token for an empty text.
TOKENIZER = make_word_tokenizer(
    WORDS, unknown="[UNK]", pad_token="[PAD]", bos_token="[UNK]", eos_token="[UNK]"
)
QUESTIONS = draw_questions(12)
PROMPT = "Question: {{question}}\nAnswer:"
# arc_easy of the harness, but for where the rows are.
TASK = f"""
task: local_arc_easy
dataset_path: json
dataset_kwargs: {{data_files: {{test: ROWS}}}}
output_type: multiple_choice
test_split: test
doc_to_text: {json.dumps(PROMPT)}
doc_to_target: "{{{{choices.label.index(answerKey)}}}}"
doc_to_choice: "{{{{choices.text}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, a result of it, its export, and a task."""
    folder = tmp_path_factory.mktemp("harness")
    save_base(folder, make_tiny_decoder())
    TOKENIZER.save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    scores = draw_random_scores(base, config=LoraConfig(r=4, task_type="CAUSAL_LM"))
    config = lightpeft.PruningConfig(heads=0.5, neurons=0.5, neuron_scope="layer")
    model = lightpeft.prune(base, lightpeft.make_plan(scores, config), scores).eval()
    lightpeft.save(model, folder / "out")
    details = lightpeft.ExportDetails(processor=TOKENIZER)
    lightpeft.export(model, folder / "stock", format="stock", details=details)
    rows = [
        {
            "question": row["question"],
            "choices": {"text": row["choices"], "label": list("ABCDE")[: len(row["choices"])]},
            "answerKey": "ABCDE"[row["label"]],
        }
        for row in QUESTIONS
    ]
    write_rows(folder / "rows.jsonl", rows)
    (folder / "task.yaml").write_text(TASK.replace("ROWS", str(folder / "rows.jsonl")))
    return folder


def evaluate(folder: Path, model: str, arguments: str) -> tuple[dict[str, Any], list[list[float]]]:
    """The metrics, and the log-likelihood of each choice, by the command line."""
    out = folder / "results"
    words = ["--tasks", "local_arc_easy", "--include_path", str(folder), "--device", "cpu"]
    words += ["--output_path", str(out), "--log_samples", "--batch_size", "4"]
    run("lm-eval", "run", "--model", model, "--model_args", arguments, *words)
    (result,), (samples,) = (
        sorted(out.rglob(pattern))[-1:] for pattern in ("results_*.json", "samples_*.jsonl")
    )
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    lines.sort(key=lambda line: line["doc_id"])
    found = [[float(pair[0]) for pair in line["filtered_resps"]] for line in lines]
    return json.loads(result.read_text())["results"]["local_arc_easy"], found


def test_harness_computes_what_the_pipeline_does(folder: Path):
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    model = lightpeft.load(base, folder / "out")
    expected = []
    with enter_inference_mode(model):
        for row in QUESTIONS:
            prompt = PROMPT.replace("{{question}}", row["question"])
            ids, choices = tokenize_choices(prompt, row["choices"], TOKENIZER)
            expected += score_choices(model.get_base_model(), [ids], [choices], padding=0)
    right = [int(np.argmax(x)) == row["label"] for x, row in zip(expected, QUESTIONS, strict=True)]

    ours = f"path={folder / 'out'},base={folder / 'base'}"
    exported = f"pretrained={folder / 'stock'},dtype=float32"
    ours_exported = f"path={folder / 'stock'},dtype=float32"
    runs = (("lightpeft", ours), ("hf", exported), ("lightpeft", ours_exported))
    for name, arguments in runs:
        metrics, found = evaluate(folder, name, arguments)
        for these, those in zip(found, expected, strict=True):
            assert these == pytest.approx(those, abs=1e-4)
        assert metrics["acc,none"] == pytest.approx(np.mean(right))


def test_path_is_required_and_a_classifier_is_refused(tmp_path: Path):
    from lightpeft.harness import LightPeftLM

    with pytest.raises(ConfigError, match="needs --model_args path=RESULT"):
        LightPeftLM()
    make_tiny_model().save_pretrained(tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    scores = draw_random_scores(base)
    lightpeft.save(lightpeft.prune(base, make_uneven_plan(scores), scores), tmp_path / "out")
    with pytest.raises(ModelError, match="out is a BertForSequenceClassification, which computes"):
        LightPeftLM(path=str(tmp_path / "out"), device="cpu")


def test_base_model_of_another_result_is_refused(folder: Path, tmp_path: Path):
    from lightpeft.harness import LightPeftLM

    save_base(tmp_path, make_tiny_decoder(num_hidden_layers=3))
    with pytest.raises(CheckpointError, match="the plan was made for another llama model"):
        LightPeftLM(path=str(folder / "out"), base=str(tmp_path / "base"), device="cpu")
