"""Where each architecture keeps its heads and neurons, and what tells models apart."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from helpers.tiny_models import FAMILIES, make_lora, make_tiny_model
from peft import get_peft_model

from lightpeft.core.errors import ModelError
from lightpeft.modeling.families import find_attention_mask_name
from lightpeft.modeling.fingerprint import compute_fingerprint
from lightpeft.modeling.inspection import inspect_model


@pytest.mark.parametrize("family", FAMILIES)
def test_shape_is_read_from_the_weights(family: str):
    shape = inspect_model(make_tiny_model(family))

    assert shape.model_type == family
    assert list(shape.heads.values()) == [4, 4, 4]
    assert list(shape.neurons.values()) == [64, 64, 64]
    sizes = [(linear.outputs, linear.inputs, linear.unit_size) for linear in shape.linears.values()]
    assert sizes == [*[(32, 32, 8)] * 4, (64, 32, 1), (32, 64, 1)] * 3


@pytest.mark.parametrize("family", FAMILIES)
def test_linears_are_in_the_order_in_which_they_run(family: str):
    model, ran = make_tiny_model(family), []
    shape = inspect_model(model)
    for name in shape.linears:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))

    model(input_ids=torch.ones(1, 3, dtype=torch.long))

    blocks = [shape.block_of[name].path for name in ran]
    assert list(dict.fromkeys(blocks)) == [block.path for block in shape.blocks]
    assert sorted(ran) == sorted(shape.linears)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_counted_once(family: str):
    model = make_tiny_model(family)
    shape = inspect_model(model)

    linears = sum(x.inputs * x.outputs + x.bias * x.outputs for x in shape.linears.values())

    assert linears + sum(shape.non_block_parameters.values()) == sum(
        w.numel() for w in model.parameters()
    )
    head = [w.numel() for n, w in model.named_parameters() if "classifier" in n or "pooler" in n]
    assert shape.non_block_parameters["head"] == sum(head)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_block_is_read_by_the_linear_whose_columns_are_its_units(family: str):
    shape = inspect_model(make_tiny_model(family))

    for block in shape.blocks:
        linear = block.linears[block.output_projection]
        assert (linear.inputs, linear.pruned_dim) == (block.units * block.unit_size, "in")


def test_shape_of_other_task_heads_is_read_too():
    config = make_tiny_model().config

    shape = inspect_model(transformers.BertForTokenClassification(config))

    assert list(shape.heads.values()) == [4, 4, 4]


def test_architecture_without_known_blocks_is_refused():
    config = transformers.XLNetConfig(vocab_size=9, d_model=8, n_layer=1, n_head=2)

    with pytest.raises(ModelError, match="'xlnet' can't be pruned: XLNetModel has no xlnet blocks"):
        inspect_model(transformers.XLNetModel(config))


def test_wrapped_model_is_refused():
    model = make_tiny_model()
    get_peft_model(model, make_lora())

    with pytest.raises(ModelError, match="pass the plain model, not one wrapped by peft"):
        inspect_model(model)


def test_fingerprint_is_that_of_the_checkpoint_in_either_dtype():
    model = make_tiny_model()
    shape = inspect_model(model)

    assert compute_fingerprint(model, shape) == compute_fingerprint(
        copy.deepcopy(model).bfloat16(), shape
    )


def test_fingerprint_does_not_see_a_head_that_is_saved():
    model, other = make_tiny_model(), make_tiny_model()
    torch.nn.init.zeros_(other.classifier.weight)

    prints = {compute_fingerprint(x, inspect_model(x), ["classifier"]) for x in (model, other)}
    assert len(prints) == 1
    assert compute_fingerprint(model, inspect_model(model)) != compute_fingerprint(
        other, inspect_model(other)
    )


@pytest.mark.parametrize("changes", [{"seed": 1}, {"num_hidden_layers": 2}])
def test_fingerprint_tells_models_apart(changes: dict[str, int]):
    one, other = make_tiny_model(), make_tiny_model(**changes)

    assert compute_fingerprint(one, inspect_model(one)) != compute_fingerprint(
        other, inspect_model(other)
    )


def test_fingerprint_sees_a_change_in_any_weight():
    model = make_tiny_model()
    shape = inspect_model(model)
    fingerprints = {compute_fingerprint(model, shape)}

    for weight in model.parameters():
        with torch.no_grad():
            weight += 0.1
        fingerprints.add(compute_fingerprint(model, shape))

    assert len(fingerprints) == len(list(model.parameters())) + 1


@pytest.mark.parametrize("tied", [True, False])
def test_fingerprint_sees_added_embeddings_and_which_they_are(tied: bool):
    def build(tokens: int = 50, seed: int = 1) -> transformers.PreTrainedModel:
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
        config = transformers.LlamaConfig(
            vocab_size=50, num_hidden_layers=1, tie_word_embeddings=tied, **sizes
        )
        model = transformers.LlamaForCausalLM(config)
        torch.manual_seed(seed)
        if tokens > 50:
            model.resize_token_embeddings(tokens, mean_resizing=False)
        return model

    prints, saved = [], ["embed_tokens", "lm_head"]
    for model in (build(), build(51), build(51), build(51, seed=2)):
        shape = inspect_model(model)
        prints.append((compute_fingerprint(model, shape), compute_fingerprint(model, shape, saved)))

    assert prints[1] == prints[2]
    assert len({full for full, _ in prints}) == 3
    assert len({without for _, without in prints}) == 1


@pytest.mark.parametrize(
    ("path", "encoder_decoder", "key"),
    [
        ("bert.encoder.layer.0.attention.self.query", False, "attention_mask"),
        ("model.decoder.layers.0.self_attn.q_proj", False, "attention_mask"),
        ("model.decoder.layers.0.self_attn.q_proj", True, "decoder_attention_mask"),
        ("model.decoder.layers.0.fc1", True, "decoder_attention_mask"),
        ("model.decoder.layers.0.encoder_attn.q_proj", True, "decoder_attention_mask"),
        ("model.decoder.layers.0.encoder_attn.k_proj", True, "attention_mask"),
        ("model.encoder.layers.0.self_attn.k_proj", True, "attention_mask"),
        ("decoder.block.0.layer.1.EncDecAttention.v", True, "attention_mask"),
        ("decoder.block.0.layer.1.EncDecAttention.o", True, "decoder_attention_mask"),
        ("vision_model.encoder.layers.0.mlp.fc1", False, ""),
        ("deberta.encoder.layer.0.attention.self.pos_proj", False, ""),
    ],
)
def test_a_linear_knows_the_mask_of_what_it_sees(path: str, encoder_decoder: bool, key: str):
    assert find_attention_mask_name(path, encoder_decoder=encoder_decoder) == key
