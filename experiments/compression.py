"""Compare ways to store a small adapter, on a tiny BERT that is trained here: about two minutes.

    python -m experiments.compression

The base model learns which of four groups of tokens is the most frequent in a row. A third of the
tokens then change their groups; a pruned LoRA learns that. Bytes are those of the packed values of
all PEFT modules, without names and task head. The classes of 512 rows are predicted.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel
from transformers.utils import logging

import lightpeft
from lightpeft import EstimationConfig, PruningConfig
from lightpeft.core.names import COMPRESSED_PREFIX
from lightpeft.modeling.adapters import get_adapter_state_dict, load_adapter_state_dict
from lightpeft.pruning.compression import compress_adapter, decompress_adapter

_TOKENS, _LENGTH, _GROUPS = 200, 24, 4
_FRACTIONS = (0.05, 0.1, 0.2, 0.5, 1.0)
Batch = dict[str, Tensor]
# From B and A of a module to what is left of them, and its bytes.
Way = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, float]]


def make_batches(count: int, *, seed: int, moved: float, rows: int = 32) -> list[Batch]:
    """Return batches of random tokens, whose labels are their most frequent groups."""
    fixed = torch.Generator().manual_seed(11)
    first, second = (torch.randint(0, _GROUPS, (_TOKENS,), generator=fixed) for _ in range(2))
    groups = torch.where(torch.rand(_TOKENS, generator=fixed) < moved, second, first)
    generator, batches = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        ids = torch.randint(3, _TOKENS, (rows, _LENGTH), generator=generator)
        counts = torch.nn.functional.one_hot(groups[ids], _GROUPS).sum(dim=1)
        ties = torch.rand(counts.shape, generator=generator) / 10
        batches.append({"input_ids": ids, "labels": (counts + ties).argmax(dim=1)})
    return batches


def train(model: PreTrainedModel | PeftModel, batches: Sequence[Batch], lr: float) -> None:
    """Train what requires gradients, the learning rate falling to 0."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, len(batches))
    model.train()
    for batch in batches:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


def train_pruned_model() -> PeftModel:
    """Return a pruned model with a trained adapter."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=_TOKENS,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=_LENGTH,
        num_labels=_GROUPS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    base = BertForSequenceClassification(config)
    train(base, make_batches(900, seed=0, moved=0.0, rows=64), 1e-3)
    batches = make_batches(500, seed=50, moved=0.35)
    lora = LoraConfig(r=8, lora_alpha=16, task_type="SEQ_CLS", target_modules="all-linear")
    scores = lightpeft.estimate(
        copy.deepcopy(base), lora, batches[:100], EstimationConfig(steps=100)
    )
    plan = lightpeft.make_plan(scores, PruningConfig(heads=0.25, neurons=0.33))
    model = lightpeft.prune(base, plan, scores)
    train(model, batches[100:], 2e-3)
    return model


@torch.no_grad()
def compute_logits(model: PeftModel, batches: Sequence[Batch]) -> Tensor:
    """Return the logits of all rows."""
    return torch.cat([model(**batch).logits for batch in batches])


def keep_signs(weight: Tensor, fraction: float) -> tuple[Tensor, float]:
    """Keep the signs of the largest values and their mean size, as ComPEFT does of a tensor."""
    count = max(1, round(fraction * weight.numel()))
    mask = torch.zeros(weight.numel())
    mask[weight.abs().flatten().topk(count).indices] = 1
    kept = weight * mask.view_as(weight)
    num_bits = count * (3 + math.floor(math.log2(weight.numel() / count)))
    return kept.sign() * (kept.abs().sum() / count), num_bits / 8 + 4


def round_rows(weight: Tensor, bits: int = 4) -> tuple[Tensor, float]:
    """Round to integers times a scale for each row."""
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / (2 ** (bits - 1) - 1)
    return (weight / scale).round() * scale, weight.numel() * bits / 8 + 4 * len(weight)


def compress_factors(fraction: float) -> Way:
    """Keep signs of B and of A as they are."""

    def compress(b: Tensor, a: Tensor) -> tuple[Tensor, Tensor, float]:
        (b, b_bytes), (a, a_bytes) = keep_signs(b, fraction), keep_signs(a, fraction)
        return b, a, b_bytes + a_bytes

    return compress


def compress_b(fraction: float) -> Way:
    """Keep signs of B as it is, and all of A in 4 bits."""

    def compress(b: Tensor, a: Tensor) -> tuple[Tensor, Tensor, float]:
        (b, b_bytes), (a, a_bytes) = keep_signs(b, fraction), round_rows(a)
        return b, a, b_bytes + a_bytes

    return compress


def truncate(rank: int) -> Way:
    """Keep the largest singular vectors in 4 bits, without signs: for comparison."""

    def compress(b: Tensor, a: Tensor) -> tuple[Tensor, Tensor, float]:
        left, values, right = torch.linalg.svd(b @ a, full_matrices=False)
        kept = min(rank, b.shape[1])
        root = values[:kept].sqrt()
        (columns, b_bytes) = round_rows((left[:, :kept] * root).T)
        (rows, a_bytes) = round_rows(root[:, None] * right[:kept])
        room = b.shape[1] - kept
        b = torch.nn.functional.pad(columns.T, (0, room))
        return b, torch.nn.functional.pad(rows, (0, 0, 0, room)), b_bytes + a_bytes

    return compress


def apply_way(weights: dict[str, Tensor], way: Way) -> tuple[dict[str, Tensor], float]:
    """Return the weights that are left of an adapter, and the bytes of its PEFT modules."""
    changed, total = dict(weights), 0.0
    for name in weights:
        if ".lora_B." in name:
            other = name.replace(".lora_B.", ".lora_A.")
            changed[name], changed[other], size = way(weights[name], weights[other])
            total += size
    return changed, total


def main() -> None:
    """Print a table: what each way needs, and what it leaves of the adapter."""
    logging.set_verbosity_error()
    model, batches = train_pruned_model(), make_batches(16, seed=1000, moved=0.35)
    plan, before = lightpeft.get_plan(model), compute_logits(model, batches)
    labels = torch.cat([batch["labels"] for batch in batches])
    weights = {name: weight.clone() for name, weight in get_adapter_state_dict(model).items()}
    print("| way | bytes | accuracy | change of outputs (root mean square) |\n|---|---:|---:|---:|")

    def report(way: str, changed: dict[str, Tensor], size: float) -> None:
        load_adapter_state_dict(model, changed)
        after = compute_logits(model, batches)
        accuracy = float((after.argmax(dim=1) == labels).float().mean())
        change = float((after - before).square().mean().sqrt())
        print(f"| {way} | {size:,.0f} | {100 * accuracy:.1f} | {change:.2f} |", flush=True)

    lora = {name: x for name, x in weights.items() if ".lora_" in name}
    report("the whole adapter, float32", weights, 4 * sum(x.numel() for x in lora.values()))
    report("none of it: the task head alone", {**weights, **{k: x * 0 for k, x in lora.items()}}, 0)
    for fraction in _FRACTIONS:
        packed = compress_adapter(weights, plan, fraction)
        size = sum(x.nbytes for name, x in packed.items() if name.startswith(COMPRESSED_PREFIX))
        report(f"`--compress {fraction:g}`", decompress_adapter(packed, plan), size)
    for title, make in (
        ("signs of B and of A", compress_factors),
        ("signs of B, A in 4 bits", compress_b),
    ):
        for fraction in _FRACTIONS:
            report(f"{title}, {100 * fraction:g} %", *apply_way(weights, make(fraction)))
    for rank in (1, 2, 4):
        report(f"singular vectors in 4 bits: {rank}", *apply_way(weights, truncate(rank)))


if __name__ == "__main__":
    main()
