"""Batches go to where the model is, whatever accelerator the machine has."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from helpers.stage_workspace import draw_rows, make_card, make_tokenizer
from helpers.tiny_models import make_lora, make_tiny_model
from peft import get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.common.console import Progress
from pipeline.tasks import inference
from pipeline.tasks.batching import build_dataloader, count_tokens, sort_batches_by_length
from pipeline.tasks.inference import run_model
from pipeline.tasks.registry import make_task

TASK = make_task(make_card())


@pytest.mark.parametrize("accelerator", ["meta", "cuda"])
def test_a_model_on_the_cpu_predicts_there(accelerator, monkeypatch):
    model, table = get_peft_model(make_tiny_model(), make_lora()), draw_rows(9, seed=0)
    expected = TASK.predict(model, table, make_tokenizer(), batch_size=4)
    found = torch.device(accelerator)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    predictions = TASK.predict(model, table, make_tokenizer(), batch_size=4)

    assert model.device == torch.device("cpu")
    assert predictions.loss == expected.loss
    assert (predictions.scores == expected.scores).all()


def test_a_task_with_a_title_shows_its_progress(monkeypatch, capsys):
    model, table = get_peft_model(make_tiny_model(), make_lora()), draw_rows(9, seed=0)
    monkeypatch.setattr("pipeline.tasks.base.Progress", partial(Progress, every=0))
    titled = make_task(make_card(), title="evaluate light").keep_selection_metric()

    TASK.predict(model, table, make_tokenizer(), batch_size=4)
    assert capsys.readouterr().out == ""
    titled.predict(model, table, make_tokenizer(), batch_size=4)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("  ")[0] for line in lines] == [
        "[evaluate light] batch 1/3",
        "[evaluate light] batch 2/3",
    ]


def test_batches_follow_a_model_to_its_device(monkeypatch):
    model, table = (
        get_peft_model(make_tiny_model(attention="eager"), make_lora()),
        draw_rows(9, seed=0),
    )
    order = sort_batches_by_length(count_tokens(table), batch_size=4)
    batches = list(build_dataloader(table, TASK, make_tokenizer(), order))
    monkeypatch.setattr(torch, "autocast", lambda *_: nullcontext())  # has no such device
    # Tensors without values: mixing devices raises as it does where there is a GPU.
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        on_cpu = [{name: fake.from_tensor(value) for name, value in b.items()} for b in batches]
        monkeypatch.setattr(inference, "build_dataloader", lambda *_: on_cpu)
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                module._parameters[name] = torch.nn.Parameter(
                    torch.empty(weight.shape, device="meta"), weight.requires_grad
                )
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="meta")
        for numbers, batch, output in run_model(TASK, model, table, make_tokenizer(), batch_size=4):
            devices = {value.device.type for value in [*batch.values(), output.logits]}
            assert (devices, output.logits.shape) == ({"meta"}, (len(numbers), 2))
