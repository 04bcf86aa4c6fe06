"""Every supported architecture: what it costs, and how it is estimated."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import transformers as hf
from helpers.architecture_matrix import (
    build_parts,
    compute_logits,
    compute_loss,
    compute_outputs,
    draw_plan,
    draw_plans,
    make_batch,
    mask_model,
    slice_model,
)
from helpers.architectures import ARCHITECTURES
from helpers.tiny_models import check_unchanged
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode

import lightpeft
from lightpeft.core.config import EstimationConfig, PruningConfig
from lightpeft.core.errors import ScoresError
from lightpeft.core.scores import CRITERIA
from lightpeft.estimation.importance import ImportanceTracker, score_module
from lightpeft.modeling.masks import Masks
from lightpeft.profiling.workload import compute_plan_cost

NAMES = list(ARCHITECTURES)
NO_LOSS = {"clip_text_model", "clip_vision_model"}  # transformers gives them no head


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_counted_exactly(name: str):
    model, scores = build_parts(name)
    identity = lightpeft.make_plan(scores, PruningConfig(heads=0, neurons=0, modules=0, ranks=0))
    for plan in (identity, *draw_plans(name, scores)):
        table = compute_plan_cost(plan, length=9)
        base = slice_model(model, plan)
        bare = table.total.parameters - table.parts["adapter"].parameters

        assert bare == sum(weight.numel() for weight in base.parameters())
        pruned = lightpeft.prune(copy.deepcopy(model), plan, scores)
        lora = [w.numel() for n, w in pruned.named_parameters() if "lora_" in n]
        assert table.parts["adapter"].parameters == sum(lora)


@pytest.mark.parametrize("cut", ["SelfAttention", "EncDecAttention"])
def test_t5_that_loses_heads_of_one_kind_is_right_and_counted(cut: str):
    model, scores = build_parts("t5")
    drawn = draw_plan(scores)
    heads = {
        path: one if cut in path else dataclasses.replace(one, kept=tuple(range(one.total)))
        for path, one in drawn.heads.items()
    }
    plan = dataclasses.replace(drawn, heads=heads)
    table, base = compute_plan_cost(plan, length=9), slice_model(model, plan)

    torch.testing.assert_close(
        compute_outputs(base, "t5"),
        compute_outputs(mask_model(model, plan), "t5"),
        rtol=1e-5,
        atol=1e-5,
    )
    bare = table.total.parameters - table.parts["adapter"].parameters
    assert bare == sum(weight.numel() for weight in base.parameters())


# Of DeBERTa and CLIP torch counts what no formula per token says: see `cost`.
COUNTED = ("albert", "bert", "bloom", "falcon, new", "gemma2", "gemma3_text", "gpt2", "gpt_neox")
COUNTED += ("llama, shared keys and values", "modernbert", "opt", "phi3", "t5, gated (flan-t5)")
MOE = ("mixtral", "qwen2_moe, shared expert and dense layer", "qwen3_moe, dense layer")


def counted(pruned: torch.nn.Module) -> torch.nn.Module:
    """The same; torch's counter does not know the kernel that runs all experts in one."""
    pruned.config._experts_implementation = "eager"
    return pruned


@pytest.mark.parametrize("name", COUNTED + MOE)
def test_inference_flops_are_those_that_torch_counts(name: str):
    model, scores = build_parts(name)
    length, plan = 9, draw_plan(scores, head_granularity="query_head")
    pruned = counted(lightpeft.prune(model, plan, scores))
    ids = torch.randint(3, 40, (2, length))
    batch = {"input_ids": ids} | ({"decoder_input_ids": ids} if name.startswith("t5") else {})

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pruned(**batch)

    flops = compute_plan_cost(plan, length=length).total.inference_flops_per_token
    assert flops == pytest.approx(counter.get_total_flops() / ids.numel(), rel=5e-3)


@pytest.mark.parametrize(
    "name", ["gpt2", "llama, shared keys and values", "phi3", "qwen3", "gemma3_text", *MOE]
)
def test_training_flops_are_those_that_torch_counts(name: str):
    model, scores = build_parts(name)
    plan = lightpeft.make_plan(
        scores,
        PruningConfig(heads=0.5, neurons=0.5, modules=0, ranks=0, head_granularity="query_head"),
    )
    pruned = counted(lightpeft.prune(model, plan, scores))
    ids = torch.randint(3, 40, (2, 9))

    with FlopCounterMode(display=False) as counter:
        pruned(input_ids=ids, labels=ids).loss.backward()

    flops = compute_plan_cost(plan, length=9).total.training_flops_per_token
    assert flops == pytest.approx(counter.get_total_flops() / ids.numel(), rel=5e-3)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_LOSS])
def test_estimation_scores_every_unit_and_leaves_the_model_as_it_was(name: str):
    model, _ = build_parts(name)
    batches = [make_batch(name, seed=seed, labels=True) for seed in range(2)]

    with check_unchanged(model):
        scores = lightpeft.estimate(model, LoraConfig(r=2), batches, EstimationConfig(steps=4))

    assert scores.modules.keys() == scores.shape.linears.keys()
    assert min(scores.modules.values()) > 0
    for criterion in CRITERIA:
        assert all(row.count_nonzero() == len(row) for row in scores.heads[criterion].values())
    plan = lightpeft.make_plan(
        scores, PruningConfig(heads=0.5, neurons=0.5, modules=0.25, ranks=0.5)
    )
    pruned = lightpeft.prune(model, plan, scores, verify_batch=batches[0])
    assert compute_outputs(pruned, name).isfinite().all()


@pytest.mark.parametrize("name", sorted(NO_LOSS))
def test_a_model_without_a_loss_cannot_be_estimated(name: str):
    model, _ = build_parts(name)

    with pytest.raises(ScoresError, match="the batches must hold labels"):
        lightpeft.estimate(model, LoraConfig(r=2), [make_batch(name)], EstimationConfig(steps=2))


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("llama, shared keys and values", "CAUSAL_LM"),
        ("gpt2", "CAUSAL_LM"),
        ("t5", "SEQ_2_SEQ_LM"),
        ("whisper", "SEQ_2_SEQ_LM"),
        ("clip", "FEATURE_EXTRACTION"),
        ("bert", "SEQ_CLS"),
    ],
)
def test_task_types_of_peft_are_estimated_and_only_a_fresh_head_is_trained(name: str, task: str):
    model, _ = build_parts(name)
    batches = [make_batch(name, labels=True)]
    scores = lightpeft.estimate(
        model, LoraConfig(r=2, task_type=task), batches, EstimationConfig(steps=2)
    )
    plan = lightpeft.make_plan(scores, PruningConfig(heads=0.5, neurons=0.5, modules=0, ranks=0))

    pruned = lightpeft.prune(model, plan, scores)

    trained = {path for path, weight in pruned.named_parameters() if weight.requires_grad}
    head = {path for path in trained if "lora_" not in path}
    assert {path.split(".")[2] for path in head} == ({"classifier"} if name == "bert" else set())
    assert compute_logits(pruned.get_base_model(), make_batch(name)).isfinite().all()


def test_mask_of_the_encoder_is_not_used_for_the_decoder_even_of_the_same_length():
    model, _ = build_parts("bart")
    batch = make_batch("bart", labels=True)
    batch["decoder_input_ids"] = batch["labels"] = batch["input_ids"]
    importances = []
    for mask in (batch["attention_mask"], torch.ones_like(batch["attention_mask"])):
        wrapped = get_peft_model(
            copy.deepcopy(model), LoraConfig(target_modules="all-linear", init_lora_weights=False)
        )
        generator = torch.Generator().manual_seed(0)
        for path, weight in wrapped.named_parameters():
            if "lora_" in path:
                weight.data = torch.randn(weight.shape, generator=generator)
        shape = lightpeft.inspect_model(model)
        with (
            Masks(wrapped.base_model.model, shape, l1=0.0) as masks,
            ImportanceTracker(wrapped, masks, reduction="sum") as tracker,
        ):
            # The model sees every token either way; only the scores are told otherwise.
            tracker.start_step(batch | {"attention_mask": mask})
            compute_loss(wrapped, batch | {"attention_mask": torch.ones_like(mask)}).backward()
            tracker.finish_step(1, count=True)
            importances.append(tracker.compute_importances()[0])

    padded, plain = importances
    apart = {path for path in plain if padded[path] != plain[path]}
    encoder = {path for path in plain if ".encoder." in path}
    assert apart == encoder | {
        path for path in plain if path.endswith(("encoder_attn.k_proj", "encoder_attn.v_proj"))
    }


def test_unused_tower_of_a_model_scores_nothing():
    model, _ = build_parts("gemma3")
    batch = make_batch("gemma3", labels=True)
    text = {key: batch[key] for key in ("attention_mask", "token_type_ids")}
    text |= {"input_ids": batch["input_ids"].clamp(max=40), "labels": batch["labels"]}
    text["token_type_ids"] = torch.zeros_like(batch["token_type_ids"])

    scores = lightpeft.estimate(model, LoraConfig(r=2), [text], EstimationConfig(steps=2))

    for path, value in scores.modules.items():
        assert (value == 0) == ("vision_tower" in path)
    assert not any(
        row.any() for path, row in scores.heads["taylor"].items() if "vision_tower" in path
    )


def classifier(name: str) -> hf.PreTrainedModel | None:
    """A sequence classifier of an architecture, if transformers has one."""
    config = ARCHITECTURES[name].config()
    if type(config) not in hf.AutoModelForSequenceClassification._model_mapping:
        return None
    config.pad_token_id, config.num_labels = 0, 2
    return hf.AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("name", [name for name in NAMES if classifier(name)])
def test_classifiers_are_estimated_verified_and_counted(name: str):
    model = classifier(name)
    batch = {"input_ids": torch.randint(3, 40, (2, 9)), "labels": torch.tensor([0, 1])}
    batch["input_ids"][:, -1] = 2
    scores = lightpeft.estimate(
        model, LoraConfig(r=2, task_type="SEQ_CLS"), [batch], EstimationConfig(steps=2)
    )
    plan = lightpeft.make_plan(
        scores, PruningConfig(heads=0.5, neurons=0.5, modules=0.25, ranks=0.25)
    )

    pruned = lightpeft.prune(model, plan, scores, verify_batch=batch)

    running = {n: w for n, w in pruned.named_parameters() if "original_module" not in n}
    table = compute_plan_cost(plan, length=9)
    assert table.total.parameters == sum(w.numel() for w in running.values())
    assert f" -> {table.total.parameters:,}\n" in f"{plan.summary()}\n"
    assert table.parts["adapter"].trainable == table.parts["adapter"].parameters
    assert any("lora_" not in n and w.requires_grad for n, w in running.items())


def test_module_of_a_layer_that_runs_several_times_scores_the_mean_of_its_runs():
    model, scores = build_parts("albert")
    path = next(iter(scores.shape.linears))
    wrapped = get_peft_model(
        model, LoraConfig(target_modules="all-linear", init_lora_weights=False)
    )
    layer = wrapped.get_submodule(f"base_model.model.{path}")
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(module: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        base = layer.base_layer(args[0])
        seen.append(((output - base).detach(), base.detach()))

    batch = make_batch("albert")
    with Masks(model, scores.shape, l1=0.0) as masks:
        handle = layer.register_forward_hook(keep)
        compute_logits(wrapped, batch)
        handle.remove()
        with ImportanceTracker(wrapped, masks, reduction="sum") as tracker:
            tracker.start_step(batch)
            compute_loss(wrapped, batch).backward()
            tracker.finish_step(1, count=True)
            importance = tracker.compute_importances()[0][path]

    runs = [float(score_module(*pair, batch["attention_mask"])) for pair in seen]
    assert len(runs) == 2
    assert runs[0] != pytest.approx(runs[1], rel=1e-3)
    assert importance == pytest.approx(sum(runs) / 2, rel=1e-4)
