"""Layers below the lowest adapter, computed once: equal training, and what is refused."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers.architecture_matrix import build, draw_scores
from helpers.stage_training import get_trained_weights, train_in_space
from helpers.stage_workspace import (
    load_base_model,
    make_card,
    make_tokenizer,
    set_params,
)
from peft import PeftModel
from torch import Tensor
from torch.utils.data import DataLoader

import lightpeft
from lightpeft.core.config import PruningConfig
from lightpeft.core.scores import Scores
from pipeline.common.errors import ConfigError
from pipeline.common.params import FinetuneSection
from pipeline.common.paths import Paths
from pipeline.tasks.registry import make_task
from pipeline.training import row_states
from pipeline.training import trainer as training
from pipeline.training.frozen_cache import FrozenCache, make_frozen_cache
from pipeline.training.row_states import RowStates
from pipeline.training.training_data import TrainingData

CUT = {"heads": 0.5, "neurons": 0.5, "modules": 0.5, "ranks": 0.0}
LENGTHS = [3, 6, 5, 2]
ORDER = [[0, 1], [2, 3], [1, 2], [3, 0]]


def train(
    space: Path, folder: Path, *, dropout: float = 0.0, **settings: Any
) -> tuple[training.TrainingResult, PeftModel, list[int]]:
    """Train a classifier for four epochs; return how often its lowest layer ran, too."""
    set_params(space, finetune={"steps": 34, "save_every": 15, "group_by_length": False} | settings)
    base, _ = load_base_model(space)
    torch.manual_seed(0)
    scores = Scores.load(Paths(space).scores)
    model = lightpeft.prune(base, lightpeft.make_plan(scores, PruningConfig(**CUT)), scores)
    layers = model.get_base_model().bert
    for module in (*layers.embeddings.modules(), *layers.encoder.layer[0].modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    runs: list[int] = []
    layers.encoder.layer[0].attention.register_forward_hook(
        lambda module, *_: runs.append(1) if module.training else None
    )
    return train_in_space(space, model, folder), model, runs


def test_cached_layers_give_the_same_training_also_when_it_is_resumed(space, tmp_path):
    plain, model, runs = train(space, tmp_path / "plain")
    results = [train(space, tmp_path / "cached", cache_frozen=True)]
    (tmp_path / "cached" / "checkpoint-30" / "complete.json").unlink()
    results.append(train(space, tmp_path / "cached", cache_frozen=True))

    assert len(runs) == 30
    # An epoch of 7.5 batches, what the second one mixes, and a trial; when resumed, of 15 batches.
    assert max(len(fewer) for *_, fewer in results) < 13
    for result, other, _ in results:
        for row, expected in zip(result.curve, plain.curve, strict=True):
            assert row == pytest.approx(expected, abs=1e-6)
        for name, weight in get_trained_weights(other).items():
            torch.testing.assert_close(weight, get_trained_weights(model)[name], rtol=0, atol=1e-6)
    assert {path.name for path in (tmp_path / "cached").iterdir()} == {
        path.name for path in (tmp_path / "plain").iterdir()
    }


def test_dropout_below_the_lowest_adapter_is_refused(space, tmp_path):
    with pytest.raises(ConfigError) as raised:
        train(space, tmp_path, cache_frozen=True, dropout=0.1)
    assert str(raised.value) == (
        "finetune.cache_frozen must be false for this model, got true: its frozen layers have "
        "dropout (hidden_dropout_prob 0.1, attention_probs_dropout_prob 0.1)"
    )


def test_a_disk_without_space_is_refused_before_training(space, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(row_states.shutil, "disk_usage", lambda path: usage(1000))
    message = r"^finetune\.cache_frozen: true needs [\d,]+ bytes in \S+, which has 1,000 free; set"
    with pytest.raises(ConfigError, match=message):
        train(space, tmp_path, cache_frozen=True)


def cut_decoder(name: str, dtype: torch.dtype, modules: float = 0.5) -> PeftModel:
    model = build(name, layers=4).to(dtype)
    scores = draw_scores(model)
    plan = lightpeft.make_plan(scores, PruningConfig(**CUT | {"modules": modules}))
    return lightpeft.prune(model, plan, scores).train()


def make_cache(
    model: PeftModel, folder: Path, *, order: list[list[int]] = ORDER, **settings: Any
) -> FrozenCache | None:
    data = TrainingData(
        name="test",
        task=make_task(make_card()),
        processor=make_tokenizer(),
        train=Dataset.from_dict({"length": LENGTHS}),
        validation=Dataset.from_dict({"length": LENGTHS}),
        estimation_steps=0,
    )
    section = FinetuneSection(cache_frozen=True, **settings)
    loader = DataLoader(data.train, batch_sampler=order)
    return make_frozen_cache(model, data, section, loader, folder=folder)


def make_batch(rows: list[int], side: str = "right") -> dict[str, Tensor]:
    width = max(LENGTHS[row] for row in rows)
    ids = torch.full((len(rows), width), 0)
    for number, row in enumerate(rows):
        tokens = torch.randint(3, 40, (LENGTHS[row],), generator=torch.Generator().manual_seed(row))
        start = 0 if side == "right" else width - len(tokens)
        ids[number, start : start + len(tokens)] = tokens
    labels = ids.masked_fill(ids == 0, -100)
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def compute_losses(model: PeftModel, cache: FrozenCache | None) -> list[float]:
    losses = []
    for rows in ORDER:
        batch = make_batch(rows)
        if cache is None:
            losses.append(model(**batch).loss.item())
        else:
            numbered = batch | {"row_numbers": rows}
            losses.append(
                cache.compute_loss(lambda batch=batch: model(**batch).loss, numbered).item()
            )
    return losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["qwen3", "opt", "gpt2"])
def test_decoders_have_the_same_losses_with_rows_of_other_batches(name, dtype, tmp_path):
    model = cut_decoder(name, dtype)
    cache = make_cache(model, tmp_path)

    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    assert compute_losses(model, cache) == pytest.approx(compute_losses(model, None), rel=tolerance)
    assert cache._states._states.dtype == dtype
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("modules", "order", "reason"),
    [
        (0.0, ORDER, "no layer is frozen below a trained one"),
        (0.5, [[0, 1], [2, 3]], "no row is in two batches"),
    ],
)
def test_where_a_cache_saves_nothing_there_is_none(tmp_path, caplog, modules, order, reason):
    caplog.set_level("INFO")
    model = cut_decoder("qwen3", torch.float32, modules)

    assert make_cache(model, tmp_path, order=order) is None
    assert f"finetune.cache_frozen: {reason}, so nothing is kept" in caplog.text


def test_rows_padded_on_the_left_are_refused(tmp_path):
    model = cut_decoder("qwen3", torch.float32)
    cache = make_cache(model, tmp_path)
    batch = make_batch(ORDER[0], side="left")
    with pytest.raises(ConfigError, match="rows are not padded on the right"):
        cache.compute_loss(lambda: model(**batch).loss, batch | {"row_numbers": ORDER[0]})


def test_several_lines_a_row_are_refused(tmp_path):
    model = cut_decoder("qwen3", torch.float32)
    cache = make_cache(model, tmp_path)
    batch = make_batch([0, 1, 2, 3])
    with pytest.raises(ConfigError, match=r"2 rows of train are \(4, 6, 32\) hidden states"):
        cache.compute_loss(lambda: model(**batch).loss, {"row_numbers": [0, 1]})


def test_an_encoder_decoder_is_refused(tmp_path):
    pruned = cut_decoder("bart", torch.float32, modules=0.25)
    with pytest.raises(ConfigError, match=r"cache_frozen must be false .* 2 stacks of layers"):
        make_cache(pruned, tmp_path)


def test_a_model_that_needs_more_than_hidden_states_is_refused(tmp_path):
    model = cut_decoder("qwen3", torch.float32)
    runs: list[int] = []
    layers = model.get_base_model().model.layers
    layers[0].self_attn.register_forward_hook(lambda *_: runs.append(1))
    layers[3].register_forward_hook(lambda layer, args, output: output + 0.01 * len(runs))
    cache = make_cache(model, tmp_path)

    def compute() -> Tensor:
        runs.clear()
        return model(**make_batch(ORDER[0])).logits.mean() * 10

    with pytest.raises(ConfigError, match="pass more than hidden states on"):
        cache.compute_loss(compute, {"row_numbers": ORDER[0]})


def test_states_are_kept_as_they_are_and_once(tmp_path):
    states = RowStates(tmp_path, {4: 2, 7: 1}, width=3, dtype=torch.bfloat16)
    first = torch.randn(2, 4, 3).bfloat16()
    states.write([4, 9], first)
    states.write([4, 7], torch.zeros(2, 2, 3).bfloat16())

    assert states.has([4, 7])
    assert not states.has([4, 9])
    read = states.read([7, 4], like=torch.zeros(2, 5, 3))
    assert torch.equal(read[1, :2], first[0, :2])
    assert not read[0].any()
    assert not read[1, 2:].any()
