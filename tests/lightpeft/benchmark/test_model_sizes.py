"""Random models have the size of their checkpoint, and repeat for a seed."""

import pytest
import torch
import transformers
from helpers.tiny_shapes import KINDS, make_tiny_shape

import lightpeft
from lightpeft.benchmark import random_models
from lightpeft.benchmark.model_sizes import MODEL_SIZES
from lightpeft.benchmark.random_models import MODEL_CLASSES, build_random_model, check_free_memory
from lightpeft.core.errors import ModelError

CPU, META = torch.device("cpu"), torch.device("meta")
# Parameters of the published checkpoints: encoders with two classes, ViT with 1,000.
PARAMETERS = {
    "bert-base": 109_483_778,
    "bert-large": 335_143_938,
    "distilbert-base": 66_955_010,
    "electra-base": 109_483_778,
    "minilm": 22_713_986,
    "roberta-base": 124_647_170,
    "roberta-large": 355_361_794,
    "xlm-roberta-base": 278_045_186,
    "modernbert-base": 149_606_402,
    "opt-1.3b": 1_315_758_080,
    "opt-6.7b": 6_658_473_984,
    "llama-2-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    # 4,300,079,472, less a vision tower of 416,866,032 and a projector of 2,950,272.
    "gemma-3-4b": 3_880_263_168,
    "t5-base": 222_903_552,
    "vit-base": 86_567_656,
}


@pytest.mark.parametrize("name", MODEL_SIZES)
def test_a_model_has_as_many_parameters_as_its_checkpoint(name):
    model = build_random_model(name, dtype=torch.bfloat16, device=META)

    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert lightpeft.inspect_model(model).heads


def test_gemma_3_is_the_published_size_without_the_vision_tower():
    text = MODEL_SIZES["gemma-3-4b"].sizes
    vision = {"image_size": 896, "patch_size": 14, "hidden_size": 1152, "num_hidden_layers": 27}
    vision |= {"num_attention_heads": 16, "intermediate_size": 4304, "vision_use_head": False}
    config = transformers.Gemma3Config(text_config=text, vision_config=vision)
    with torch.device("meta"):
        model = transformers.Gemma3ForConditionalGeneration(config)

    total = sum(p.numel() for p in model.parameters())
    assert total == 4_300_079_472
    assert PARAMETERS["gemma-3-4b"] == total - 416_866_032 - 2_950_272


@pytest.mark.parametrize("name", KINDS)
def test_a_random_model_repeats_and_leaves_the_global_seed_alone(name, monkeypatch):
    monkeypatch.setitem(MODEL_SIZES, name, make_tiny_shape(name))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = (build_random_model(name, dtype=torch.float32, device=CPU) for _ in "12")

    again = second.state_dict()
    assert all(torch.equal(weight, again[key]) for key, weight in first.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    for weight in first.parameters():
        assert weight.abs().max() < 10
        assert weight.dim() == 1 or weight.std() > 0.01


@pytest.mark.parametrize("name", KINDS)
def test_buffers_and_tied_weights_are_as_transformers_makes_them(name, monkeypatch):
    shape = make_tiny_shape(name)
    monkeypatch.setitem(MODEL_SIZES, name, shape)
    config = transformers.AutoConfig.for_model(**shape.sizes)
    stock = MODEL_CLASSES[shape.kind][0].from_config(config, dtype=torch.bfloat16)

    built = build_random_model(name, dtype=torch.bfloat16, device=CPU)

    buffers = dict(built.named_buffers())
    assert buffers.keys() == dict(stock.named_buffers()).keys()
    for path, buffer in stock.named_buffers():
        torch.testing.assert_close(buffers[path], buffer, rtol=0, atol=0)
    if getattr(config, "tie_word_embeddings", False) and shape.kind != "encoder":
        assert built.get_output_embeddings().weight is built.get_input_embeddings().weight


@pytest.mark.parametrize(("free", "enough"), [(2 * 22_713_986 * 4 - 1, False), (2**40, True)])
def test_a_model_that_does_not_fit_is_refused_before_it_is_built(free, enough, monkeypatch):
    monkeypatch.setattr(random_models, "get_free_memory", lambda device: free)
    if enough:
        check_free_memory("minilm", dtype=torch.float32, device=CPU)
        return
    with pytest.raises(ModelError, match=r"^two models of minilm in float32 need 0.2 GB, but cpu"):
        check_free_memory("minilm", dtype=torch.float32, device=CPU)


def test_free_memory_is_read_where_it_can_be():
    assert random_models.get_free_memory(META) is None
    free = random_models.get_free_memory(CPU)
    assert free is None or 2**20 < free < 2**50
