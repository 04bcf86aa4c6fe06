"""A tiny model of every supported architecture and layout, with weights of order 1."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from lightpeft.geometry import fingerprint, read_shape
from lightpeft.layout import ModelShape
from lightpeft.plan import Cut, PruningPlan
from lightpeft.scores import CRITERIA, Scores
from lightpeft.surgery import peft_weights
from lightpeft.targets import checked

VOCABULARY = 50
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
_DECODER = _ENCODER | _TOKENS | {"num_attention_heads": 8, "num_key_value_heads": 4}
_DECODER |= {"hidden_size": 32}
_WIDE = _DECODER | {"head_dim": 8, "sliding_window": 6}
_GEMMA = _WIDE | {"query_pre_attn_scalar": 8}
_FALCON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_hidden_size": 40,
    "alibi": False,
} | _TOKENS
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
_SEQUENCES = {
    "vocab_size": VOCABULARY,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
} | _TOKENS
_TOWER = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
}
_TEXT = _TOWER | _TOKENS | {"vocab_size": VOCABULARY, "max_position_embeddings": 32}
_IMAGE = _TOWER | {"image_size": 8, "patch_size": 4}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}


@dataclass(frozen=True)
class Architecture:
    """One way a supported model comes: its config, its class, what it is fed.

    Attributes:
        kind: `encoder`, `decoder`, `seq2seq`, `image`, `clip` or `audio`.
        attention: the kernels that the family has in transformers.
    """

    config: Callable[[], Any]
    model: str
    kind: str
    attention: tuple[str, ...] = ("eager", "sdpa")
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def generates(self) -> bool:
        """Whether it decodes token by token, with a cache of keys and values."""
        return self.kind in ("decoder", "seq2seq", "audio")


def _of(
    model_type: str, model: str, kind: str, sizes: dict[str, Any], **changes: Any
) -> Architecture:
    attention = changes.pop("attention", ("eager", "sdpa"))

    def config() -> Any:
        return hf.AutoConfig.for_model(model_type, **copy.deepcopy(sizes | changes))

    return Architecture(config, model, kind, attention, {"model_type": model_type})


_EAGER = ("eager",)
# model_type, or model_type and layout -> how to build it.
ARCHITECTURES = {
    "albert": _of(
        "albert",
        "AlbertForMaskedLM",
        "encoder",
        _ENCODER | {"embedding_size": 16, "num_hidden_layers": 4, "num_hidden_groups": 2},
    ),
    "bart": _of(
        "bart",
        "BartForConditionalGeneration",
        "seq2seq",
        _SEQUENCES | {"max_position_embeddings": 32},
    ),
    "bert": _of("bert", "BertForSequenceClassification", "encoder", _ENCODER),
    "bloom": _of(
        "bloom",
        "BloomForCausalLM",
        "decoder",
        {"vocab_size": VOCABULARY, "hidden_size": 24, "n_layer": 2, "n_head": 4} | _TOKENS,
        attention=_EAGER,
    ),
    "clip": _of(
        "clip",
        "CLIPModel",
        "clip",
        {"text_config": _TEXT, "vision_config": _IMAGE, "projection_dim": 12},
    ),
    "clip_text_model": _of("clip_text_model", "CLIPTextModel", "encoder", _TEXT),
    "clip_vision_model": _of("clip_vision_model", "CLIPVisionModel", "image", _IMAGE),
    "deberta": _of(
        "deberta", "DebertaForMaskedLM", "encoder", _ENCODER | _DEBERTA, attention=_EAGER
    ),
    "deberta-v2, positions shared (v3)": _of(
        "deberta-v2",
        "DebertaV2ForMaskedLM",
        "encoder",
        _ENCODER | _DEBERTA,
        position_buckets=8,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        attention=_EAGER,
    ),
    "deberta-v2, positions projected": _of(
        "deberta-v2",
        "DebertaV2ForMaskedLM",
        "encoder",
        _ENCODER | _DEBERTA,
        position_buckets=-1,
        share_att_key=False,
        attention=_EAGER,
    ),
    "distilbert": _of(
        "distilbert",
        "DistilBertForSequenceClassification",
        "encoder",
        {
            "vocab_size": VOCABULARY,
            "dim": 24,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 40,
            "max_position_embeddings": 32,
        },
    ),
    "electra": _of("electra", "ElectraForMaskedLM", "encoder", _ENCODER | {"embedding_size": 16}),
    "falcon, new": _of(
        "falcon",
        "FalconForCausalLM",
        "decoder",
        _FALCON | {"num_attention_heads": 8},
        num_kv_heads=4,
        new_decoder_architecture=True,
        bias=False,
    ),
    "falcon, one KV group (7b)": _of(
        "falcon",
        "FalconForCausalLM",
        "decoder",
        _FALCON,
        multi_query=True,
        new_decoder_architecture=False,
        parallel_attn=True,
        bias=False,
    ),
    "falcon, alibi (rw)": _of(
        "falcon",
        "FalconForCausalLM",
        "decoder",
        _FALCON | {"alibi": True},
        multi_query=False,
        new_decoder_architecture=False,
        parallel_attn=False,
        bias=True,
    ),
    "gemma2": _of("gemma2", "Gemma2ForCausalLM", "decoder", _GEMMA, attention=_EAGER),
    "gemma3_text": _of("gemma3_text", "Gemma3ForCausalLM", "decoder", _GEMMA),
    "gemma3_text, one KV group": _of(
        "gemma3_text", "Gemma3ForCausalLM", "decoder", _GEMMA | {"num_key_value_heads": 1}
    ),
    "gemma3": _of(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        "decoder",
        {
            "text_config": _GEMMA,
            "vision_config": _IMAGE,
            "mm_tokens_per_image": 4,
            "image_token_index": 49,
            "boi_token_index": 48,
            "eoi_token_index": 47,
        },
    ),
    "gpt2": _of(
        "gpt2",
        "GPT2LMHeadModel",
        "decoder",
        {"vocab_size": VOCABULARY, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 40}
        | {"n_positions": 32}
        | _TOKENS,
    ),
    "gpt_neox": _of("gpt_neox", "GPTNeoXForCausalLM", "decoder", _ENCODER | _TOKENS),
    "llama, one key and value per head": _of(
        "llama", "LlamaForCausalLM", "decoder", _DECODER | {"num_key_value_heads": 8}
    ),
    "llama, shared keys and values": _of(
        "llama", "LlamaForCausalLM", "decoder", _DECODER, attention_bias=True, mlp_bias=True
    ),
    "mistral": _of("mistral", "MistralForCausalLM", "decoder", _DECODER | {"sliding_window": 6}),
    "modernbert": _of(
        "modernbert",
        "ModernBertForMaskedLM",
        "encoder",
        _ENCODER | _TOKENS | {"local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "opt": _of(
        "opt",
        "OPTForCausalLM",
        "decoder",
        _ENCODER | _TOKENS | {"ffn_dim": 40, "word_embed_proj_dim": 16},
    ),
    "opt, norm behind (350m)": _of(
        "opt",
        "OPTForCausalLM",
        "decoder",
        _ENCODER | _TOKENS | {"ffn_dim": 40, "word_embed_proj_dim": 24},
        do_layer_norm_before=False,
    ),
    "phi3": _of("phi3", "Phi3ForCausalLM", "decoder", _DECODER),
    "qwen2": _of("qwen2", "Qwen2ForCausalLM", "decoder", _DECODER),
    "qwen3": _of("qwen3", "Qwen3ForCausalLM", "decoder", _DECODER | {"head_dim": 8}),
    "roberta": _of("roberta", "RobertaForSequenceClassification", "encoder", _ENCODER),
    "t5": _of("t5", "T5ForConditionalGeneration", "seq2seq", _T5, feed_forward_proj="relu"),
    "t5, gated (flan-t5)": _of(
        "t5", "T5ForConditionalGeneration", "seq2seq", _T5, feed_forward_proj="gated-gelu"
    ),
    "vit": _of("vit", "ViTForImageClassification", "image", _IMAGE | {"num_labels": 7}),
    "whisper": _of(
        "whisper",
        "WhisperForConditionalGeneration",
        "audio",
        _SEQUENCES | {"num_mel_bins": 6, "max_source_positions": 10, "max_target_positions": 32},
        suppress_tokens=[],
        begin_suppress_tokens=[],
    ),
    "xlm-roberta": _of("xlm-roberta", "XLMRobertaForMaskedLM", "encoder", _ENCODER),
}
QUIET = {"attention_dropout", "hidden_dropout", "dropout", "activation_dropout", "dropout_rate"}


def build(name: str, *, attention: str = "eager", seed: int = 0) -> hf.PreTrainedModel:
    """A model whose weights and biases are all of order 1, without dropout."""
    made = ARCHITECTURES[name]
    config = made.config()
    model = getattr(hf, made.model)._from_config(config, attn_implementation=attention)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for key in QUIET & set(vars(module)):
            if isinstance(getattr(module, key), float):
                setattr(module, key, 0.0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, weight in model.named_parameters():
            weight.copy_(_drawn(model, path, weight, generator))
    return model.eval()


def _drawn(model: nn.Module, path: str, weight: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(weight.shape, generator=generator)
    owner = model.get_submodule(path.rpartition(".")[0])
    if weight.dim() < 2:
        is_scale = path.endswith("weight") and "Gemma" not in type(owner).__name__
        return drawn * 0.2 + (1.0 if is_scale else 0.0)
    if isinstance(owner, nn.Embedding):
        return drawn * (1.0 if "relative" in path else 0.5)
    fan = weight.shape[0] if type(owner).__name__ == "Conv1D" else weight[0].numel()
    return drawn * fan**-0.5


def batch_of(name: str, *, seed: int = 0, labels: bool = False) -> dict[str, Any]:
    """What the model is fed; with labels or what else gives a loss on demand."""
    kind, generator = ARCHITECTURES[name].kind, torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 40, (2, 9), generator=generator)
    mask = torch.ones_like(ids)
    found: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if kind == "decoder":
        mask[1, :3] = 0
    elif kind != "image":
        mask[1, 7:] = 0
    images = torch.randn(2, 3, 8, 8, generator=generator)
    targets = torch.randint(3, 40, (2, 6), generator=generator)
    if kind == "image":
        found = {"pixel_values": images}
    elif kind == "clip":
        ids[:, -1] = 2
        found["pixel_values"] = images
    elif kind == "audio":
        found = {"input_features": torch.randn(2, 6, 20, generator=generator)}
    if kind in ("seq2seq", "audio"):
        found["decoder_input_ids"] = targets
    if name == "gemma3":
        ids[:, 1:5] = 49
        found |= {"pixel_values": images, "token_type_ids": (ids == 49).long()}
        mask[:] = 1
    return found | (_labels(name, found) if labels else {})


def _labels(name: str, batch: dict[str, Any]) -> dict[str, Any]:
    model = ARCHITECTURES[name].model
    if "Classification" in model:
        return {"labels": torch.tensor([0, 1])}
    if model == "CLIPModel":
        return {"return_loss": True}
    return {"labels": batch.get("decoder_input_ids", batch.get("input_ids"))}


def outputs(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """What the model says: logits, or embeddings where it has no head."""
    found = model(**batch)
    if hasattr(found, "logits"):
        return found.logits
    if hasattr(found, "text_embeds"):
        return torch.cat([found.text_embeds, found.image_embeds])
    return found.last_hidden_state


def loss_of(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """A scalar that every real token and every output has a share in."""
    found = outputs(model, batch)
    generator = torch.Generator().manual_seed(1)
    return (found * torch.randn(found.shape, generator=generator)).mean()


def scores_of(model: hf.PreTrainedModel, *, seed: int = 0) -> Scores:
    """Scores without an estimation: random importance, LoRA of rank 3 on every block linear."""
    generator = torch.Generator().manual_seed(seed)
    shape = read_shape(model)
    config = checked(LoraConfig(r=3, lora_alpha=6, target_modules="all-linear"), model, shape)
    adapter = peft_weights(get_peft_model(copy.deepcopy(model), copy.deepcopy(config)))

    def draw(blocks: dict[str, int]) -> dict[str, dict[str, Tensor]]:
        return {
            criterion: {
                path: torch.rand(size, generator=generator) for path, size in blocks.items()
            }
            for criterion in CRITERIA
        }

    return Scores(
        shape=shape,
        fingerprint=fingerprint(model, shape),
        peft=config,
        heads=draw(shape.heads),
        neurons=draw(shape.neurons),
        modules={path: float(torch.rand(1, generator=generator)) for path in shape.linears},
        ranks={path: torch.rand(3, generator=generator) for path in shape.linears},
        adapter={
            path: torch.randn(weight.shape, generator=generator) * 0.5 * weight.shape[-1] ** -0.5
            for path, weight in adapter.items()
        },
        curve=[{"step": 1.0}],
        steps=2,
    )


def drawn_plan(
    scores: Scores, *, head_unit: str = "group", empty: bool = False, seed: int = 0
) -> PruningPlan:
    """Other heads, neurons and ranks in every block; on demand every second block emptied."""
    draw, shape = random.Random(seed), scores.shape
    heads = {
        path: _heads(draw, shape, path, head_unit, index) for index, path in enumerate(shape.heads)
    }
    neurons = {
        path: sorted(draw.sample(range(total), draw.randint(total // 4, total - 3)))
        for path, total in shape.neurons.items()
    }
    gone = {*list(heads)[::2], *list(neurons)[1::2]} if empty else set()
    ranks = {
        path: sorted(draw.sample(range(3), index % 4))
        for index, path in enumerate(shape.linears)
        if not (shape.linears[path].block in gone and shape.linears[path].side == "in")
    }

    def cuts(totals: dict[str, int], kept: dict[str, list[int]]) -> dict[str, Cut]:
        return {
            path: Cut(total=total, kept=() if path in gone else tuple(kept.get(path, ())), why="")
            for path, total in totals.items()
        }

    return PruningPlan(
        shape=shape,
        fingerprint=scores.fingerprint,
        scores=scores.digest,
        settings={},
        heads=cuts(shape.heads, heads),
        neurons=cuts(shape.neurons, neurons),
        ranks=cuts(dict.fromkeys(scores.ranks, 3), ranks),
        notes=(),
    )


def _heads(
    draw: random.Random, shape: ModelShape, path: str, head_unit: str, index: int
) -> list[int]:
    total, sharing = shape.heads[path], shape.sharing[path]
    groups = total // sharing
    if groups > 1 and (head_unit == "group" or sharing == 1):
        kept = sorted(draw.sample(range(groups), 1 + index % (groups - 1)))
        return [g * sharing + head for g in kept for head in range(sharing)]
    count = max(1, sharing - 1 - index % 2)
    return [
        g * sharing + h for g in range(groups) for h in sorted(draw.sample(range(sharing), count))
    ]


def shares_heads(name: str) -> bool:
    """Whether query heads of this layout share keys and values, in more than one group."""
    shape = read_shape(build(name))
    return any(1 < shape.sharing[path] < total for path, total in shape.heads.items())
