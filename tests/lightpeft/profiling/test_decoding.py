"""Prefill and decode equal a plain forward pass; FLOPs and bytes read are counted exactly."""

import pytest
import torch
from helpers.tiny_shapes import GENERATING, LENGTH, make_tiny_method_model, make_tiny_shape
from torch.utils.flop_counter import FlopCounterMode

import lightpeft
from lightpeft.benchmark.model_sizes import MODEL_SIZES
from lightpeft.profiling.decoding import make_decode_step, make_prefill_step, measure_decode_traffic
from lightpeft.profiling.random_batches import make_random_batch
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.workload import Workload

ROWS = 3
GROUPED = ("llama-3-8b", "qwen3-0.6b", "gemma-3-4b")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    for name in GENERATING:
        monkeypatch.setitem(MODEL_SIZES, name, make_tiny_shape(name))


def _model_and_batch(name, method="pruned", **options):
    model = make_tiny_method_model(name, method, **options)
    return model, make_random_batch(model, batch_size=ROWS, length=LENGTH)


def _last_logits(model, batch, *, further):
    """Return a plain forward pass's last logits, `further` tokens after the prompt."""
    token = batch["input_ids"][:, :further]
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            inputs["decoder_input_ids"] = torch.cat([batch["labels"], token], dim=1)
        else:
            inputs = {"input_ids": torch.cat([batch["input_ids"], token], dim=1)}
        return model(**inputs, use_cache=False).logits[:, -1]


def _lengths(cache):
    caches = [cache]
    if hasattr(cache, "cross_attention_cache"):
        caches = [cache.self_attention_cache, cache.cross_attention_cache]
    return [layer.keys.shape[-2] for inner in caches for layer in inner.layers]


@pytest.mark.parametrize("unit", ["kv_group", "query_head"])
@pytest.mark.parametrize("name", GENERATING)
def test_prefill_and_decode_give_the_logits_of_a_plain_forward_pass(name, unit):
    model, batch = _model_and_batch(name, "pruned", head_granularity=unit)

    prefilled, decode = make_prefill_step(model, batch)(), make_decode_step(model, batch)
    first, second = decode(), decode()

    expected = [_last_logits(model, batch, further=n) for n in (0, 1)]
    torch.testing.assert_close(prefilled.logits[:, -1], expected[0])
    assert prefilled.logits.shape[1] == (LENGTH if name == "t5-base" else 1)
    torch.testing.assert_close(first.logits[:, 0], expected[1])
    assert (expected[0] - expected[1]).abs().max() > 0.1
    assert torch.equal(first.logits, second.logits)
    assert first.logits.shape[1] == 1


@pytest.mark.parametrize("name", GENERATING)
def test_the_cache_keeps_its_length_and_its_contents(name):
    model, batch = _model_and_batch(name)
    decode = make_decode_step(model, batch)

    cache = decode().past_key_values
    lengths, keys = _lengths(cache), [tensor.clone() for tensor in _keys(cache)]
    decode()

    window = MODEL_SIZES[name].sizes.get("sliding_window")
    assert set(lengths) == ({LENGTH, window - 1} if window else {LENGTH})
    assert _lengths(cache) == lengths
    assert all(torch.equal(old, new) for old, new in zip(keys, _keys(cache), strict=True))


def _keys(cache):
    cache = getattr(cache, "self_attention_cache", cache)
    return [layer.keys for layer in cache.layers]


@pytest.mark.parametrize("name", GENERATING)
def test_pruned_kv_groups_halve_the_cache_and_query_heads_within_them_do_not(name):
    vanilla = measure_decode_traffic(*_model_and_batch(name, "vanilla"))
    group, head = (
        measure_decode_traffic(*_model_and_batch(name, "pruned", head_granularity=unit))
        for unit in ("kv_group", "query_head")
    )

    assert group.cache == vanilla.cache / 2
    assert head.cache == (vanilla.cache if name in GROUPED else vanilla.cache / 2)
    assert max(group.weights, head.weights) < vanilla.weights


def test_the_bytes_of_a_cache_are_keys_and_values_of_every_layer_and_row():
    traffic = measure_decode_traffic(*_model_and_batch("llama-3-8b", "vanilla"))

    layers, groups, width, float32 = 2, 4, 8, 4
    assert traffic.cache == 2 * layers * ROWS * LENGTH * groups * width * float32


def test_a_step_reads_each_weight_once_and_no_embedding_that_it_only_looks_up():
    tied, _ = tied_inputs = _model_and_batch("qwen3-0.6b", "vanilla")
    untied, _ = untied_inputs = _model_and_batch("llama-3-8b", "vanilla")

    assert measure_decode_traffic(*tied_inputs).weights == _bytes(tied)
    assert measure_decode_traffic(*untied_inputs).weights == _bytes(untied) - 60 * 32 * 4


@pytest.mark.parametrize("name", ["llama-3-8b", "t5-base"])
def test_an_accelerated_step_reads_the_same_weights(name):
    model, batch = _model_and_batch(name)
    expected = measure_decode_traffic(model, batch)
    lightpeft.accelerate(model)
    assert measure_decode_traffic(model, batch).weights == expected.weights


def test_a_step_of_an_encoder_decoder_reads_neither_the_encoder_nor_what_reads_it():
    executed = measure_decode_traffic(*_model_and_batch("t5-base")).modules

    assert not [path for path in executed if path.startswith("encoder.")]
    assert "decoder.block.0.layer.1.EncDecAttention.q" in executed
    assert "decoder.block.0.layer.1.EncDecAttention.k" not in executed


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("name", ["opt-1.3b", "llama-3-8b", "t5-base"])
def test_flops_of_a_phase_are_those_that_torch_counts(name, phase):
    model, batch = _model_and_batch(name, "pruned", head_granularity="query_head")
    model.get_base_model().set_attn_implementation("eager")
    settings = ProfilingSettings(batch_sizes=[ROWS], length=LENGTH, warmup=0, rounds=3)
    step = {"prefill": make_prefill_step, "decode": make_decode_step}[phase](model, batch)

    with FlopCounterMode(display=False) as counter:
        step()

    tokens = ROWS * (LENGTH if phase == "prefill" else 1)
    flops = Workload.from_model(model, settings).count_flops(phase)
    # Rotary tables take a matrix product, which the cost does not count.
    assert flops == pytest.approx(counter.get_total_flops() / tokens, rel=5e-3)


def _bytes(model):
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())
