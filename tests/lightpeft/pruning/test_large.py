"""What large models need: one copy of the weights, bfloat16, activation checkpointing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers.architecture_matrix import build, compute_loss, compute_outputs, make_batch
from helpers.architectures import LLAMA
from helpers.quantizers import quantize_stand_in
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lightpeft
from lightpeft.core.config import EstimationConfig, PruningConfig
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.modeling import slicing

RATIOS = {"heads": 0.5, "neurons": 0.5, "modules": 0.5, "ranks": 0}


class Bytes(TorchDispatchMode):
    """The most bytes that tensors held at one time, a model's weights from the start."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0
        self.see(list(model.parameters()))

    def see(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.most = max(self.most, self.now())

    def now(self) -> int:
        self._alive = {key: one for key, one in self._alive.items() if not one[0].expired()}
        return sum(size for _, size in self._alive.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.see([tensor for tensor in tensors if not tensor.is_meta])
        return result


def large(dtype: torch.dtype = torch.float32) -> transformers.PreTrainedModel:
    """A model next to whose weights all else is small; a linear is a twelfth of them at most."""
    sizes = {"hidden_size": 128, "intermediate_size": 1024, "num_hidden_layers": 4}
    config = transformers.LlamaConfig(vocab_size=50, num_attention_heads=4, **sizes)
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).to(dtype).eval()


def held(model: nn.Module) -> int:
    return sum(weight.nbytes for weight in model.parameters())


def short_batch() -> dict[str, Tensor]:
    ids = torch.tensor([[3, 4]])
    return {"input_ids": ids, "labels": ids}


def estimated(model: transformers.PreTrainedModel) -> tuple[Scores, PruningPlan]:
    scores = lightpeft.estimate(model, LoraConfig(r=1), [short_batch()], EstimationConfig(steps=2))
    return scores, lightpeft.make_plan(scores, PruningConfig(**RATIOS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_estimating_needs_one_copy_of_the_weights(dtype: torch.dtype):
    model = large(dtype)
    with Bytes(model) as counter:
        estimated(model)

    # Beside the base: adapters, their gradients and AdamW's two moments, in float32; one linear.
    assert counter.most < (1.3 if dtype == torch.float32 else 1.5) * held(model)


@pytest.mark.parametrize("quantize", [None, quantize_stand_in])
def test_pruning_and_loading_free_each_weight_before_the_next_is_cut(
    quantize: Callable[..., None] | None, tmp_path: Path
):
    model = large()
    scores, plan = estimated(model)
    unpruned = held(model)

    with Bytes(model) as counter:
        pruned = lightpeft.prune(model, plan, scores, verify_batch=short_batch(), quantize=quantize)
        assert counter.now() < 0.6 * unpruned
        # Freed at the end alone, the old weights beside the new would be one and a half.
        assert counter.most < 1.15 * unpruned
    lightpeft.save(pruned, tmp_path / "out")
    base = large()
    with Bytes(base) as counter:
        lightpeft.load(base, tmp_path / "out", quantize=quantize)
        assert counter.most < 1.15 * unpruned


def test_a_second_copy_would_be_seen(monkeypatch: pytest.MonkeyPatch):
    model = large()
    scores, plan = estimated(model)
    unpruned, select, hoarded = held(model), slicing.index_parameter, []

    def hoard(old: Tensor, dim: int, index: Tensor) -> nn.Parameter:
        hoarded.append(old)
        return select(old, dim, index)

    monkeypatch.setattr(slicing, "index_parameter", hoard)
    with Bytes(model) as counter:
        lightpeft.prune(model, plan, scores)
    assert counter.most > 1.4 * unpruned


def trained(
    name: str, checkpointing: bool, dtype: torch.dtype
) -> tuple[Scores, PeftModel, dict[str, Tensor]]:
    """Estimated, pruned, and the gradients of one training step."""
    model = build(name).to(dtype)
    if checkpointing:
        model.activation_checkpointing_enable()
    torch.manual_seed(0)
    batches = [make_batch(name, seed=seed, labels=True) for seed in range(2)]
    scores = lightpeft.estimate(model, LoraConfig(r=2), batches, EstimationConfig(steps=4))
    plan = lightpeft.make_plan(scores, PruningConfig(heads=0.5, neurons=0.5, modules=0.25, ranks=0))
    pruned = lightpeft.prune(model, plan, scores)
    assert pruned.get_base_model().is_activation_checkpointing == checkpointing
    runs: list[int] = []
    inner = next(m for n, m in pruned.named_modules() if n.endswith("base_layer"))
    inner.register_forward_hook(lambda *_: runs.append(1))
    compute_loss(pruned.train(), batches[0]).backward()
    assert len(runs) == 1 + checkpointing, "nothing was computed again"
    gradients = {n: w.grad for n, w in pruned.named_parameters() if w.requires_grad}
    return scores, pruned.eval(), gradients


def kept(model: PeftModel) -> list[tuple[int, ...]]:
    """What the plan keeps, block by block, rank by rank."""
    plan = lightpeft.get_plan(model)
    cuts = (*plan.heads.values(), *plan.neurons.values(), *plan.ranks.values())
    return [cut.kept for cut in cuts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["bert", LLAMA])
def test_activation_checkpointing_changes_no_score_no_plan_and_no_gradient(
    name: str, dtype: torch.dtype, tmp_path: Path
):
    plain, saving = (trained(name, checkpointing, dtype) for checkpointing in (False, True))

    assert kept(saving[1]) == kept(plain[1])
    assert saving[0].modules == pytest.approx(plain[0].modules)
    for path, row in plain[0].ranks.items():
        torch.testing.assert_close(saving[0].ranks[path], row)
    assert {w.dtype for n, w in plain[1].named_parameters() if "lora_" not in n} == {dtype}
    assert plain[2].keys() == saving[2].keys()
    for path, gradient in plain[2].items():
        torch.testing.assert_close(saving[2][path], gradient)
    lightpeft.save(saving[1], tmp_path / "out")
    again = lightpeft.load(copy.deepcopy(build(name)).to(dtype), tmp_path / "out")
    assert torch.equal(compute_outputs(again, name), compute_outputs(saving[1], name))
