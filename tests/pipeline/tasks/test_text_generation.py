"""What models that generate are measured by, and what they write."""

import json

import pytest
import torch
from datasets import Dataset, load_from_disk
from helpers.generation_workspace import (
    draw_copying_rows,
    encode_words,
    load_prepared,
    make_tokenizer,
    run_prepare,
    write_workspace,
)
from helpers.params_file import change_params
from transformers import AutoConfig, AutoModel

from lightpeft.modeling.adapters import get_peft_model_unmapped
from lightpeft.modeling.inspection import inspect_model
from lightpeft.peft_methods.registry import resolve_config
from pipeline.common.errors import ConfigError, DataError
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import load_params
from pipeline.metrics.scoring import score
from pipeline.stages import estimate, evaluate, finetune, prune
from pipeline.stages.prepare import main as prepare
from pipeline.tasks import greedy_decoding as greedy
from pipeline.tasks.base import IGNORED
from pipeline.tasks.batching import sort_batches_by_length
from pipeline.tasks.generation_schema import SCHEMA
from pipeline.tasks.registry import choose_task
from pipeline.tasks.text_generation import CausalLM, read_reference_texts


@pytest.fixture(params=["llama", "gpt2", "opt", "t5", "bart"])
def model(request):
    return request.param


@pytest.fixture
def enter(tmp_path, monkeypatch):
    """Make a workspace in the current folder; 60 rows of copying by default."""

    def enter(model, rows=None, **sections):
        monkeypatch.chdir(
            write_workspace(tmp_path, model, rows or draw_copying_rows(60), **sections)
        )
        return tmp_path

    return enter


@pytest.fixture
def ready(enter, model):
    """A prepared workspace's kind, model in a PeftModel, tokenizer and test rows."""
    folder = enter(model)
    task, network, words = load_prepared(folder, run_prepare(folder))
    return task, wrap(network, task), words, load_from_disk("data/prepared/test")


def wrap(network, task):
    """The network in an adapter with random weights."""
    torch.manual_seed(0)
    config = estimate.make_peft_config(load_params().peft, task, [])
    adapted = get_peft_model_unmapped(
        network, resolve_config(config, network, inspect_model(network))
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return adapted.eval()


def test_losses_are_those_of_each_row_alone_by_the_model_s_own_loss(ready):
    task, network, words, rows = ready
    predictions = task.keep_selection_metric().predict(network, rows, words, batch_size=4)

    assert predictions.predictions is None
    for row, (tokens, loss) in zip(rows, predictions.tokens, strict=True):
        batch = task.make_collator(words)([{name: row[name] for name in ("input_ids", "labels")}])
        with torch.no_grad():
            mean = float(network(**batch).loss)
        assert tokens == len(row["labels"]) - row["labels"].count(IGNORED)
        assert loss == pytest.approx(mean * tokens, rel=1e-4)
    assert predictions.loss == pytest.approx(
        predictions.tokens[:, 1].sum() / predictions.tokens[:, 0].sum()
    )


def test_texts_are_the_likeliest_tokens_one_by_one_whatever_the_batch(ready):
    task, network, words, rows = ready
    prompts = task.list_prompts(rows)
    batches = sort_batches_by_length([*map(len, prompts)], batch_size=4)
    texts = greedy.generate_greedily(network, prompts, words, batches=batches, new=5)

    single = [[number] for number in range(len(prompts))]
    assert texts == greedy.generate_greedily(network, prompts, words, batches=single, new=5)
    assert len(set(texts)) > 1
    for prompt, text in zip(prompts[:3], texts, strict=False):
        assert text == one_by_one(network, prompt, words, new=5)


def one_by_one(network, prompt, words, *, new: int) -> str:
    """Greedy generation without padding, without a cache and without `generate`."""
    source, decoder = torch.tensor([prompt]), network.config.is_encoder_decoder
    written = [network.config.decoder_start_token_id] if decoder else []
    for _ in range(new):
        sides = {"decoder_input_ids": torch.tensor([written])} if decoder else {}
        ids = source if decoder else torch.tensor([prompt + written])
        with torch.no_grad():
            logits = network(input_ids=ids, **sides).logits
        written.append(int(logits[0, -1].argmax()))
        if written[-1] == words.eos_token_id:
            break
    return words.decode(written, skip_special_tokens=True).strip()


def train_vanilla() -> None:
    """Run the stages up to the fine-tuning of the method vanilla."""
    prepare(Paths())
    estimate.main(Paths())
    for stage in (prune, finetune):
        stage.main("vanilla", Paths())


def test_validation_generates_only_where_it_chooses_by_texts(enter, monkeypatch):
    folder = enter("llama", data={"metric": "rougeL"})
    card = run_prepare(folder)
    task, network, words = load_prepared(folder, card)
    generated = []

    def answer(*_, **__):
        generated.append(1)
        return ["w1"] * 6

    monkeypatch.setattr("pipeline.tasks.text_generation.generate_greedily", answer)
    rows, network = load_from_disk("data/prepared/validation"), wrap(network, task)

    assert (card.metric, card.selection_metric) == (
        "rougeL",
        "perplexity",
    )
    task.keep_selection_metric().predict(network, rows, words, batch_size=8)
    assert not generated
    by_text = CausalLM(
        card.model_copy(update={"selection_metric": "rougeL"})
    ).keep_selection_metric()
    predictions = by_text.predict(network, rows, words, batch_size=8)
    assert score(by_text.card, predictions).keys() == {"rougeL"}
    assert generated


def test_a_prompt_leaves_room_for_what_is_generated(enter):
    folder = enter("gpt2")
    task, network, words = load_prepared(folder, run_prepare(folder))
    network = wrap(network, task)

    prompts = [[*range(3, 33)], [7]]
    texts = greedy.generate_greedily(network, prompts, words, batches=[[0, 1]], new=12)
    assert len(texts) == 2
    short = [*range(3, 13), *range(23, 33)]  # 20 of 32 positions
    assert texts[0] == greedy.generate_greedily(network, [short], words, batches=[[0]], new=12)[0]
    with pytest.raises(ConfigError, match=r"evaluate\.max_new_tokens must be below 32.*got 32"):
        greedy.generate_greedily(network, [[7]], words, batches=[[0]], new=32)


def test_plain_text_is_measured_by_perplexity_alone(enter):
    rows = [{"text": row["prompt"]} for row in draw_copying_rows(60)]
    folder = enter("llama", rows)

    assert run_prepare(folder).metrics == ("perplexity",)
    change_params(folder, data={"metric": "exact_match"})
    with pytest.raises(DataError, match="every prompt of train is empty; take perplexity"):
        prepare(Paths())


def test_an_encoder_decoder_needs_prompts(enter):
    folder = enter("t5", [{"text": row["prompt"]} for row in draw_copying_rows(60)])
    with pytest.raises(DataError, match=r"an encoder has nothing to read; take a decoder"):
        run_prepare(folder)


def test_the_main_metric_can_be_any_that_compares_texts(enter, capsys):
    folder = enter("llama", data={"metric": "final_number"})

    assert run_prepare(folder).metrics == ("perplexity", "exact_match", "final_number")
    line = "text-generation by decoders; metric final_number, also perplexity, exact_match"
    assert f"[prepare] {line}\n" in capsys.readouterr().out
    change_params(folder, data={"metric": "accuracy"})
    with pytest.raises(ConfigError, match=r"data\.metric must be auto or one of perplexity.*rouge"):
        prepare(Paths())


class _Config:
    is_encoder_decoder, is_decoder = False, False

    def __init__(self, model_type: str) -> None:
        self.model_type = model_type


@pytest.mark.parametrize("model_type", ["bert", "roberta", "modernbert", "deberta-v2", "vit"])
def test_an_encoder_can_t_generate(model_type):
    with pytest.raises(ConfigError, match=f"'{model_type}' does not support .*text-gen.*decoder"):
        choose_task(SCHEMA, [], _Config(model_type))
    assert choose_task(SCHEMA, [], _Config("qwen3")) is CausalLM


def test_a_checkpoint_without_its_language_head_is_refused(enter):
    folder = enter("llama")
    card = run_prepare(folder)
    config = AutoConfig.from_pretrained(folder / "base")
    AutoModel.from_config(config).save_pretrained(folder / "base")

    with pytest.raises(
        ConfigError, match=r"no weights for lm_head\.weight.*text-generation by decoders trains"
    ):
        load_prepared(folder, card)


def test_a_copied_word_is_learned_and_then_written(enter):
    enter(
        "llama",
        draw_copying_rows(600),
        peft={"r": 16, "alpha": 32},
        estimate={"steps": 10, "batch_size": 32, "lr": 1e-2},
        finetune={"steps": 200, "batch_size": 32, "evaluate_every": 100, "lr": 1e-2},
        data={"metric": "exact_match"},
    )
    train_vanilla()
    evaluate.main("vanilla", Paths())
    evaluation = json.loads(Paths().locate_evaluation("vanilla").read_text())

    assert evaluation["exact_match"] > 0.5  # by chance: 1 of 20
    assert evaluation["perplexity"] < 3


def test_generation_can_be_left_out(enter):
    folder = enter("llama")
    train_vanilla()

    for new, measured in ((0, {"perplexity"}), (2, {"perplexity", "exact_match"})):
        change_params(folder, evaluate={"max_new_tokens": new})
        evaluate.main("vanilla", Paths())
        evaluation = json.loads(Paths().locate_evaluation("vanilla").read_text())
        assert {"perplexity", "exact_match"} & set(evaluation) == measured
    card = json.loads((folder / "data" / "prepared" / "card.json").read_text())
    (folder / "data" / "prepared" / "card.json").write_text(
        json.dumps(card | {"metric": "exact_match"})
    )
    change_params(folder, evaluate={"max_new_tokens": 0})
    with pytest.raises(ConfigError, match=r"max_new_tokens must be above 0 for .* exact_match"):
        evaluate.main("vanilla", Paths())
    change_params(folder, data={"metric": "exact_match"})
    with pytest.raises(ConfigError, match=r"max_new_tokens must be above 0 for .* exact_match"):
        prepare(Paths())
    change_params(folder, evaluate={"max_new_tokens": 5000})
    with pytest.raises(ConfigError, match=r"max_new_tokens must be below \d+.*got 5000"):
        prepare(Paths())


def test_chats_run_through_the_template(enter):
    rows = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in draw_copying_rows(60)
    ]
    folder = enter("llama", rows)
    task, network, words = load_prepared(folder, run_prepare(folder))
    test = load_from_disk("data/prepared/test")
    predictions = task.predict(wrap(network, task), test, words, batch_size=8)

    assert predictions.labels.tolist() == [
        json.loads(messages)[-1]["content"] for messages in test["messages"]
    ]
    assert len(predictions.predictions) == len(test)


def test_the_reference_of_a_last_turn_with_tool_calls_is_what_the_template_writes():
    call = [{"role": "assistant", "tool_calls": [{"function": {"name": "w1"}}]}]
    rows = {"completion": ["w9", None], "messages": [None, json.dumps(call)]}
    rows |= {"labels": [encode_words("w9 </s>"), [IGNORED, *encode_words("w1 w2 </s>")]]}

    assert read_reference_texts(Dataset.from_dict(rows), make_tokenizer()) == ["w9", "w1 w2"]
