"""Prefill and decode are what generation does, at a constant length, and count what they read."""

import pytest
import torch
from helpers.tiny_shapes import GENERATING, LENGTH, tiny_drawn, tiny_shape
from torch.utils.flop_counter import FlopCounterMode

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
        monkeypatch.setitem(MODEL_SIZES, name, tiny_shape(name))


def _parts(name, method="pruned", **options):
    model = tiny_drawn(name, method, **options)
    return model, make_random_batch(model, batch_size=ROWS, length=LENGTH)


def _last(model, batch, *, further):
    """Logits of the last token by a plain forward pass, `further` tokens behind the prompt."""
    token = batch["input_ids"][:, :further]
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            given = {name: batch[name] for name in ("input_ids", "attention_mask")}
            given["decoder_input_ids"] = torch.cat([batch["labels"], token], dim=1)
        else:
            given = {"input_ids": torch.cat([batch["input_ids"], token], dim=1)}
        return model(**given, use_cache=False).logits[:, -1]


def _lengths(cache):
    parts = [cache]
    if hasattr(cache, "cross_attention_cache"):
        parts = [cache.self_attention_cache, cache.cross_attention_cache]
    return [layer.keys.shape[-2] for part in parts for layer in part.layers]


@pytest.mark.parametrize("unit", ["kv_group", "query_head"])
@pytest.mark.parametrize("name", GENERATING)
def test_prefill_and_decode_say_what_a_plain_forward_pass_says(name, unit):
    model, batch = _parts(name, "pruned", head_granularity=unit)

    filled, decode = make_prefill_step(model, batch)(), make_decode_step(model, batch)
    first, second = decode(), decode()

    wanted = [_last(model, batch, further=n) for n in (0, 1)]
    torch.testing.assert_close(filled.logits[:, -1], wanted[0])
    assert filled.logits.shape[1] == (LENGTH if name == "t5-base" else 1)
    torch.testing.assert_close(first.logits[:, 0], wanted[1])
    assert (wanted[0] - wanted[1]).abs().max() > 0.1
    assert torch.equal(first.logits, second.logits)
    assert first.logits.shape[1] == 1


@pytest.mark.parametrize("name", GENERATING)
def test_the_cache_keeps_its_length_and_its_contents(name):
    model, batch = _parts(name)
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
def test_a_cut_of_groups_halves_the_cache_and_one_of_heads_within_them_does_not(name):
    vanilla = measure_decode_traffic(*_parts(name, "vanilla"))
    group, head = (
        measure_decode_traffic(*_parts(name, "pruned", head_granularity=unit))
        for unit in ("kv_group", "query_head")
    )

    assert group.cache == vanilla.cache / 2
    assert head.cache == (vanilla.cache if name in GROUPED else vanilla.cache / 2)
    assert max(group.weights, head.weights) < vanilla.weights


def test_the_bytes_of_a_cache_are_keys_and_values_of_every_layer_and_row():
    found = measure_decode_traffic(*_parts("llama-3-8b", "vanilla"))

    layers, groups, width, float32 = 2, 4, 32 // 8, 4
    assert found.cache == 2 * layers * ROWS * LENGTH * groups * width * float32


def test_a_step_reads_each_weight_once_and_no_table_that_it_only_looks_up():
    tied, _ = parts = _parts("qwen3-0.6b", "vanilla")
    untied, _ = others = _parts("llama-3-8b", "vanilla")

    assert measure_decode_traffic(*parts).weights == _bytes(tied)
    assert measure_decode_traffic(*others).weights == _bytes(untied) - 60 * 32 * 4


def test_a_step_of_an_encoder_decoder_reads_neither_the_encoder_nor_what_reads_it():
    found = measure_decode_traffic(*_parts("t5-base")).modules

    assert not [path for path in found if path.startswith("encoder.")]
    assert "decoder.block.0.layer.1.EncDecAttention.q" in found
    assert "decoder.block.0.layer.1.EncDecAttention.k" not in found


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("name", ["opt-1.3b", "llama-3-8b", "t5-base"])
def test_flops_of_a_phase_are_those_that_torch_counts(name, phase):
    model, batch = _parts(name, "pruned", head_granularity="query_head")
    model.get_base_model().set_attn_implementation("eager")
    settings = ProfilingSettings(batch_sizes=[ROWS], length=LENGTH, warmup=0, rounds=3)
    step = {"prefill": make_prefill_step, "decode": make_decode_step}[phase](model, batch)

    with FlopCounterMode(display=False) as counter:
        step()

    tokens = ROWS * (LENGTH if phase == "prefill" else 1)
    found = Workload.from_model(model, settings).flops(phase)
    # Tables of positions take a product of their own, which is not a model's cost.
    assert found == pytest.approx(counter.get_total_flops() / tokens, rel=5e-3)


def _bytes(model):
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())
