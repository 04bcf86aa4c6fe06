"""Packed rows do not see each other, and cost less."""

import random

import pytest
import torch
import transformers
from datasets import Dataset, load_from_disk
from helpers.architectures import ARCHITECTURES
from helpers.generation_workspace import (
    draw_copying_rows,
    load_prepared,
    run_prepare,
    write_workspace,
)
from helpers.run_stages import run_stages

from pipeline.common.errors import ConfigError
from pipeline.data.packing import PACKABLE, pack, pack_bins
from pipeline.tasks.base import IGNORED
from pipeline.tasks.batching import build_dataloader

DECODERS = [name for name, made in ARCHITECTURES.items() if made.kind == "decoder"]


@pytest.mark.parametrize("name", DECODERS)
def test_a_packed_row_equals_its_rows_in_every_decoder_that_packs(name):
    architecture = ARCHITECTURES[name]
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 45, (1, size), generator=generator) for size in (5, 9, 1, 4)]
    positions = torch.cat([torch.arange(row.shape[1]) for row in rows])[None]
    for attention in architecture.attention:
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(
            architecture.config(), attn_implementation=attention
        ).eval()
        model.config.get_text_config().use_cache = False
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.normal_().mul_(weight.shape[-1] ** -0.5)
            alone = torch.cat([model(input_ids=row).logits for row in rows], dim=1)
            packed = model(input_ids=torch.cat(rows, dim=1), position_ids=positions).logits
        same = torch.allclose(alone, packed, atol=1e-4 * float(alone.abs().max()))

        assert same == (model.config.model_type in PACKABLE), attention


def test_bins_hold_every_row_once_and_are_nearly_full():
    draw = random.Random(0)
    lengths = [draw.randint(1, 40) for _ in range(2000)]
    bins = pack_bins(lengths, 64)

    assert sorted(row for rows in bins for row in rows) == [*range(2000)]
    assert max(sum(lengths[row] for row in rows) for rows in bins) <= 64
    assert sum(lengths) / (64 * len(bins)) > 0.98
    assert pack_bins([3, 9, 4, 4, 8, 1, 2, 10], 10) == [[7], [1, 5], [4], [2, 3, 6], [0]]
    assert pack_bins([4], 4) == [[0]]


def test_rows_are_joined_with_positions_that_start_again(tmp_path):
    rows = Dataset.from_dict(
        {
            "input_ids": [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10]],
            "labels": [[IGNORED, 2, 3], [IGNORED, 5], [IGNORED, 7, 8, 9, 10]],
            "length": [3, 2, 5],
        }
    )
    assert [*pack(rows, tmp_path / "packed.arrow", length=5)] == [
        {
            "input_ids": [6, 7, 8, 9, 10],
            "labels": [IGNORED, 7, 8, 9, 10],
            "position_ids": [0, 1, 2, 3, 4],
            "length": 5,
        },
        {
            "input_ids": [1, 2, 3, 4, 5],
            "labels": [IGNORED, 2, 3, IGNORED, 5],
            "position_ids": [0, 1, 2, 0, 1],
            "length": 5,
        },
    ]


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_packing_changes_no_loss_and_no_gradient_but_the_number_of_rows(
    tmp_path, monkeypatch, model
):
    gradients, losses, sizes = [], [], []
    for packing in (False, True):
        data = {"packing": packing}
        folder = write_workspace(tmp_path / str(packing), model, draw_copying_rows(40), data=data)
        monkeypatch.chdir(folder)
        card = run_prepare(folder)
        task, network, words = load_prepared(folder, card)
        rows = load_from_disk("data/prepared/train")
        sizes.append((card.splits["train"].rows, len(rows)))
        batch = next(iter(build_dataloader(rows, task, words, [list(range(len(rows)))])))
        loss = network(**batch).loss
        loss.backward()
        losses.append(loss)
        gradients.append([weight.grad for weight in network.parameters()])
        assert "position_ids" not in load_from_disk("data/prepared/validation").column_names

    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)
    assert sizes[0] == (32, 32)
    assert sizes[1][0] == 32
    assert sizes[1][1] < 16


def test_every_stage_runs_on_packed_rows(cwd, monkeypatch):
    write_workspace(cwd, "llama", draw_copying_rows(200), data={"packing": True})
    card, *_ = run_stages(monkeypatch)

    assert card["splits"]["train"]["packed"] < card["splits"]["train"]["rows"]


def test_packing_is_refused_where_rows_would_see_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(
        write_workspace(tmp_path / "t5", "t5", draw_copying_rows(40), data={"packing": True})
    )
    with pytest.raises(ConfigError, match="must be false for text-generation by encoder-decoders"):
        run_prepare(tmp_path / "t5")
    monkeypatch.chdir(
        write_workspace(tmp_path / "opt", "opt", draw_copying_rows(40), data={"packing": True})
    )
    with pytest.raises(ConfigError, match=r"must be false for model type 'opt'.*gpt2"):
        run_prepare(tmp_path / "opt")
