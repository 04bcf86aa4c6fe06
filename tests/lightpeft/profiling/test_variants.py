"""Merged and compiled models are timed beside eager ones, and compute the same."""

from functools import partial

import pytest
import torch
from helpers.architecture_matrix import build
from helpers.architectures import LLAMA
from helpers.bottleneck import attach
from helpers.tiny_models import (
    draw_random_scores,
    make_pruned_model,
    make_tiny_model,
    make_uneven_plan,
)
from helpers.tiny_shapes import GENERATING, LENGTH, make_tiny_method_model, make_tiny_shape
from peft import LoraModel, PeftModel, PromptTuningConfig, get_peft_model

import lightpeft
from lightpeft.benchmark.model_sizes import MODEL_SIZES
from lightpeft.profiling import variants
from lightpeft.profiling.compare import compare
from lightpeft.profiling.merged import merge_in_place
from lightpeft.profiling.random_batches import make_random_batch
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.static_decoding import has_static_cache, make_static_decode_step
from lightpeft.profiling.workload import Workload

SETTINGS = ProfilingSettings(batch_sizes=[2], length=8, warmup=0, rounds=3)


def make_uneven_llama() -> PeftModel:
    """A decoder whose layers keep different numbers of heads, and of KV heads."""
    model = build(LLAMA)
    scores = draw_random_scores(model, task_type="CAUSAL_LM")
    return lightpeft.prune(model, make_uneven_plan(scores), scores).eval()


def compute_next_logits(model, batch):
    """Logits after the prompt and its first token, without a cache."""
    ids = torch.cat([batch["input_ids"], batch["input_ids"][:, :1]], dim=1)
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits[:, -1:]


def test_a_fixed_cache_decodes_a_model_with_another_number_of_kv_heads_in_each_layer():
    model = make_uneven_llama()
    batch = make_random_batch(model, batch_size=3, length=8)
    expected = compute_next_logits(model, batch)
    merged = merge_in_place(model)
    step = make_static_decode_step(merged, batch)
    first = step().logits.clone()
    second = step()

    torch.testing.assert_close(first, expected)
    assert torch.equal(first, second.logits)
    heads = [layer.keys.shape[1] for layer in second.past_key_values.layers]
    assert len(set(heads)) > 1
    assert {layer.keys.shape[2] for layer in second.past_key_values.layers} == {9}


@pytest.mark.parametrize("name", [name for name in GENERATING if name != "t5-base"])
def test_a_fixed_cache_gives_the_logits_of_a_plain_forward_pass(name, monkeypatch):
    monkeypatch.setitem(MODEL_SIZES, name, make_tiny_shape(name))
    model = make_tiny_method_model(name, "pruned").merge_and_unload()
    batch = make_random_batch(model, batch_size=2, length=LENGTH)

    assert has_static_cache(model)
    logits = make_static_decode_step(model, batch)().logits
    torch.testing.assert_close(logits, compute_next_logits(model, batch))


def test_a_merged_model_computes_what_the_adapted_one_does_in_one_dtype():
    model = make_pruned_model().eval()
    batch = make_random_batch(model, batch_size=2, length=8)
    with torch.no_grad():
        expected = model(**batch).logits
        merged = merge_in_place(model)
        torch.testing.assert_close(merged(**batch).logits, expected, atol=1e-5, rtol=1e-5)

    half = merge_in_place(make_pruned_model().to(torch.bfloat16))
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}


def test_what_peft_cannot_merge_is_left_out_of_the_merged_variants():
    prompted = get_peft_model(
        build(LLAMA), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    assert merge_in_place(prompted) is None

    factories = {"vanilla": make_uneven_llama, "prompts": lambda: prompted}
    result = compare(factories, SETTINGS, measure_memory=None)

    assert result.methods["prompts"].variants == {}
    merged = result.methods["vanilla"].variants["merged"]
    assert list(merged.timings) == ["prefill", "decode"]
    names = dict(result.list_measured())
    assert list(names["prefill"]) == ["vanilla", "prompts"]
    assert list(names["decode, merged"]) == ["vanilla"]


def test_bottleneck_adapters_are_not_merged():
    assert merge_in_place(attach(make_tiny_model())) is None


def test_an_error_of_merging_is_not_taken_for_an_adapter_that_cannot_be_merged(monkeypatch):
    def fail(*_, **__):
        raise ValueError("a bug")

    monkeypatch.setattr(LoraModel, "merge_and_unload", fail)

    with pytest.raises(ValueError, match="a bug"):
        merge_in_place(make_pruned_model())


def test_a_merged_adapter_takes_no_flops():
    model = make_uneven_llama()
    plan, adapted = lightpeft.get_plan(model), Workload.from_model(model, SETTINGS)
    merged = Workload.from_model(merge_in_place(model), SETTINGS, merged=plan)

    ranks = {path: rank for path, rank in plan.without_layers.counts.ranks.items() if rank}
    shapes = {path: plan.compute_pruned_shape(path) for path in ranks}
    flops = sum(2 * rank * sum(shapes[path]) for path, rank in ranks.items())
    assert adapted.count_flops("prefill") - merged.count_flops("prefill") == flops
    assert merged.decode_weight_bytes < adapted.decode_weight_bytes


def test_compiled_steps_are_timed_beside_eager_ones(monkeypatch):
    backend = partial(variants.compiling, backend="eager")
    monkeypatch.setattr(variants, "compiling", backend)
    torch.compiler.reset()
    settings = SETTINGS.model_copy(update={"compile": "blocks"})
    lines = []

    result = compare(
        {"vanilla": _make_small_model}, settings, measure_memory=None, progress=lines.append
    )

    measured = result.methods["vanilla"].variants
    assert list(measured) == ["compiled", "merged", "merged_compiled"]
    assert {name: list(x.timings) for name, x in measured.items()} == {
        "compiled": ["training"],
        "merged": ["prefill", "decode"],
        "merged_compiled": ["decode"],
    }
    assert measured["merged"].compile is None
    assert measured["compiled"].compile.graphs >= 1
    assert measured["merged_compiled"].compile.graph_breaks == []
    assert any(line.startswith("vanilla: compiled 1 blocks") for line in lines)
    assert result.compile == "blocks"


def _make_small_model() -> PeftModel:
    """One layer with one PEFT module: each graph takes a second."""
    model = build(LLAMA)
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    scores = draw_random_scores(model, task_type="CAUSAL_LM", target_modules=["down_proj"])
    zero = lightpeft.PruningConfig(heads=0, neurons=0, modules=0, ranks=0)
    return lightpeft.prune(model, lightpeft.make_plan(scores, zero), scores)
