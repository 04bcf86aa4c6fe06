"""The model card of an export, and the names of its base model."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from helpers.tiny_models import (
    draw_random_scores,
    make_pruned_model,
    make_tiny_model,
    make_uneven_plan,
)
from huggingface_hub import ModelCard
from transformers import BertTokenizer

import lightpeft
from lightpeft import ExportDetails
from lightpeft.contents.recognize import read_contents

pytestmark = pytest.mark.usefixtures("in_process")


def test_model_card_says_what_was_cut_and_how_to_load(tmp_path: Path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word"]))
    details = ExportDetails(
        processor=BertTokenizer(str(vocabulary)),
        base="owner/base",
        revision="abc123",
        license="apache-2.0",
        data="glue/sst2",
        metrics={"accuracy on test": 0.91},
    )

    lightpeft.export(make_pruned_model(), tmp_path / "out", details=details)

    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.base_model == "owner/base"
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "transformers")
    for text in (
        'model = lightpeft.from_pretrained("DIR")',
        "- heads kept: 6 of 12",
        "- base model: owner/base at commit abc123",
        "| accuracy on test | 0.91 |",
        "parameters  36,738 ->",
    ):
        assert text in card.text
    assert (tmp_path / "out/tokenizer.json").exists()


@pytest.mark.parametrize(
    ("to", "options"), [("compact", {}), ("compact", {"compress": 0.1}), ("lifted", {})]
)
def test_adapter_names_its_base_model_on_the_hub(
    to: str, options: dict[str, float], tmp_path: Path
):
    model = make_pruned_model()
    model.peft_config["default"].base_model_name_or_path = str(tmp_path)
    details = ExportDetails(base="owner/base", revision="abc123")

    out = tmp_path / "out"
    lightpeft.export(model, out, format=to, base=make_tiny_model(), details=details, **options)

    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/base", "abc123")
    assert "adapter_config.json" in read_contents(out).checked


def test_model_card_names_the_peft_method(tmp_path: Path):
    model = make_tiny_model()
    config = lightpeft.BottleneckConfig(r=4, task_type="SEQ_CLS")
    scores = draw_random_scores(model, config=config)
    pruned = lightpeft.prune(copy.deepcopy(model), make_uneven_plan(scores), scores)

    lightpeft.export(pruned, tmp_path / "out", format="compact", base=model)

    card = ModelCard.load(tmp_path / "out/README.md")
    assert "A bottleneck adapter for a pruned base model" in card.text
    assert "LoRA" not in card.text
    assert "bottleneck-adapter" in card.data.tags


def test_model_card_names_no_folder_and_finds_the_licence_of_the_base(tmp_path: Path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/README.md").write_text("---\nlicense: mit\n---\n# base\n")
    model = make_pruned_model()
    model.config._name_or_path = str(tmp_path / "base")

    lightpeft.export(model, tmp_path / "out")

    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.license == "mit"
    assert str(tmp_path) not in card.content
