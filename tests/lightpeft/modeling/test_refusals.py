"""What a family's names don't account for is refused, in one line that names the block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from helpers.architecture_matrix import build, compute_logits, draw_plan, draw_scores, make_batch
from helpers.architectures import ARCHITECTURES, LLAMA
from torch import nn
from transformers import PreTrainedModel

import lightpeft
from lightpeft.core.errors import ModelError
from lightpeft.modeling import families
from lightpeft.modeling.families import FAMILIES, register_family
from lightpeft.modeling.family import Family

PLAIN: dict[str, Any] = {
    "qkv_proj": ("q", "k", "v"),
    "attn_out_proj": "o",
    "ffn_in_proj": ("up",),
    "ffn_out_proj": "down",
}


def with_sinks(model: Any) -> None:
    model.model.layers[1].self_attn.sinks = nn.Parameter(torch.zeros(8))


def with_full_width_norm(model: Any) -> None:
    model.model.layers[1].self_attn.q_norm = nn.RMSNorm(32)


def with_norm_of_neurons(model: Any) -> None:
    model.model.layers[1].mlp.norm = nn.LayerNorm(40)


def with_latent_keys(model: Any) -> None:
    attention = model.model.layers[1].self_attn
    attention.kv_a_proj, attention.kv_b_proj = nn.Linear(32, 4), nn.Linear(4, 64)
    del attention.k_proj, attention.v_proj


def with_latent_queries(model: Any) -> None:
    with_latent_keys(model)
    del model.model.layers[1].self_attn.q_proj


def with_experts_beside(model: Any) -> None:
    model.model.layers[1].mlp.experts = nn.ModuleList([nn.Linear(32, 8), nn.Linear(8, 32)])


def with_experts_around(model: Any) -> None:
    """As Llama 4 has them: the dense block is the shared expert."""
    block = nn.Module()
    block.shared_expert, block.experts = model.model.layers[1].mlp, nn.Module()
    block.experts.gate_up_proj = nn.Parameter(torch.zeros(2, 80, 32))
    model.model.layers[1].mlp = block


def with_wide_values(model: Any) -> None:
    model.model.layers[1].self_attn.v_proj = nn.Linear(32, 32)


def with_fused_experts(model: Any) -> None:
    mlp = model.model.layers[1].mlp
    mlp.experts = nn.Parameter(torch.zeros(2, 40, 32))
    del mlp.gate_proj, mlp.up_proj, mlp.down_proj


def without_attention(model: Any) -> None:
    model.model.layers[1].self_attn = nn.Linear(32, 32)


def with_heads_that_do_not_divide(model: Any) -> None:
    for name in ("k_proj", "v_proj"):
        setattr(model.model.layers[1].self_attn, name, nn.Linear(32, 12))


def with_norm_of_experts(model: Any) -> None:
    model.model.layers[1].mlp.norm = nn.LayerNorm(32)


def with_renamed_router(model: Any) -> None:
    mlp = model.model.layers[1].mlp
    mlp.router = mlp.gate
    del mlp.gate


def without_experts_per_token(model: Any) -> None:
    for module in model.model.layers[1].mlp.modules():
        vars(module).pop("top_k", None)


def refused(model: PreTrainedModel, layer: str, message: str) -> None:
    """Inspecting the model ends with a line that begins with a layer and has parts of a message."""
    with pytest.raises(ModelError) as caught:
        lightpeft.inspect_model(model)
    text = str(caught.value)
    assert text.startswith(layer)
    assert all(part.strip() in text for part in message.split(".*")), text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mixtral", with_norm_of_experts, "mlp can't be pruned: .* account for norm"),
        ("mixtral", with_renamed_router, "layers.1 can't be .*: it has no feed-forward block"),
        ("mixtral", without_experts_per_token, "mlp can't be counted: it has no top_k"),
        (LLAMA, with_sinks, "self_attn can't be pruned: .* account for sinks of shape (8,)"),
        (LLAMA, with_full_width_norm, "account for q_norm.weight of shape (32,)"),
        ("qwen3", with_full_width_norm, "account for q_norm.weight of shape (32,)"),
        (LLAMA, with_norm_of_neurons, "mlp can't be pruned: .* account for norm.weight"),
        (LLAMA, with_latent_keys, "self_attn can't be pruned: it has o_proj but no linear k_proj"),
        (
            LLAMA,
            with_latent_queries,
            "self_attn can't be pruned: it has o_proj but no linear q_proj",
        ),
        (LLAMA, with_experts_beside, "mlp can't be pruned: .* account for experts.0.weight"),
        (LLAMA, with_experts_around, "mlp.experts.gate_up_proj of shape (2, 80, 32)"),
        (LLAMA, with_wide_values, "v_proj is 32 x 32, but 8 units make it 16 x 32"),
        (LLAMA, with_fused_experts, "layers.1 can't be pruned: it has no feed-forward block"),
        (LLAMA, without_attention, "layers.1 can't be pruned: it has no attention block"),
        (LLAMA, with_heads_that_do_not_divide, "8 heads of 4 can't share 3 keys and values"),
    ],
)
def test_block_with_something_else_in_it_is_refused(
    name: str, change: Callable[[Any], None], message: str
):
    model = build(name)
    change(model)

    refused(model, "model.layers.1", message)


@pytest.mark.usefixtures("_registry")
@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("deepseek_v3", "self_attn can't be pruned: it has o_proj but no linear q_proj"),  # MLA
        ("gpt_oss", "it has no feed-forward block"),  # experts, and sinks
        ("llama4_text", "account for feed_forward.experts.gate_up_proj of shape"),
        ("olmo2", "self_attn can't be pruned: .* account for q_norm.weight of shape (32,)"),
        ("nemotron", "mlp can't be pruned: it has down_proj but no linear gate_proj"),
    ],
)
def test_model_registered_under_names_that_do_not_cover_it_is_refused(
    model_type: str, message: str
):
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 40}
    sizes |= {"moe_intermediate_size": 8, "n_routed_experts": 8, "num_local_experts": 2}
    config = transformers.AutoConfig.for_model(model_type, **sizes, pad_token_id=0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    lightpeft.register_family(
        model_type, families._QWEN3 if model_type == "olmo2" else families._LLAMA
    )

    refused(model, "model.layers.0", message)


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("gpt2", "add_cross_attention", r"h\.0\.crossattention.*(account for|can't share)"),
        ("bloom", "slow_but_exact", "bypasses its output projection"),
    ],
)
def test_setting_that_changes_attention_is_refused(name: str, setting: str, message: str):
    config = ARCHITECTURES[name].config()
    setattr(config, setting, True)

    with pytest.raises(ModelError, match=message):
        lightpeft.inspect_model(transformers.AutoModelForCausalLM.from_config(config))


@pytest.fixture
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", dict(FAMILIES))


@pytest.mark.usefixtures("_registry")
def test_a_registered_family_is_supported_like_any_other():
    lightpeft.register_family("gemma", families._LLAMA)
    lightpeft.register_family("gemma", families._LLAMA)  # the same again is no mistake
    lightpeft.register_family("olmo2", families._QWEN3)

    model, batch = build("gemma"), make_batch("gemma")
    scores = draw_scores(model)
    pruned = lightpeft.prune(model, draw_plan(scores), scores, verify_batch=batch)
    assert compute_logits(pruned, batch).isfinite().all()
    with pytest.raises(ModelError, match=r"account for q_norm\.weight"):  # as wide as all heads
        lightpeft.inspect_model(build("olmo2"))


@pytest.mark.usefixtures("_registry")
@pytest.mark.parametrize(
    ("model_type", "families", "message"),
    [
        ("", (Family(**PLAIN),), "model_type must be a name, got ''"),
        ("new", (), "'new' needs a lightpeft.Family, got ()"),
        ("new", (PLAIN,), "'new' needs a lightpeft.Family"),
        ("bert", (Family(**PLAIN),), "'bert' is registered already, as something else"),
    ],
)
def test_registering_nonsense_is_refused(model_type: str, families: Any, message: str):
    with pytest.raises(ModelError) as caught:
        register_family(model_type, *families)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qkv_proj": "qkv"}, "qkv_proj must be a tuple of child names, got 'qkv'"),
        ({"qkv_proj": ("q", "k")}, "must be query, key and value, or one linear"),
        ({"qkv_proj": ("qkv",)}, "must be query, key and value, or one linear"),
        ({"fused_qkv": "concatenated"}, "must be query, key and value, or one linear"),
        ({"fused_qkv": "rows"}, "fused_qkv must be one of"),
        ({"attn_out_proj": ""}, "attn_out_proj must be a child name, got ''"),
        ({"attn_out_proj": "q"}, "names a linear twice"),
        ({"ffn_out_proj": "up"}, "names a linear twice"),
        ({"ffn_in_proj": ()}, "ffn_in_proj must be one linear, or gate and up"),
        ({"ffn_in_proj": ("a", "b"), "fused_gate_up": True}, "ffn_in_proj must be one linear"),
        ({"head_count_rule": "magic"}, "head_count_rule must be one of"),
        ({"config_expressible": ("ranks",)}, "config_expressible must be of heads, neurons"),
    ],
)
def test_family_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ModelError) as caught:
        Family(**(PLAIN | changes))

    assert message in str(caught.value)
