"""A compressed adapter keeps the largest changes, and loads as what it is in memory."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.sealing import seal
from helpers.tiny_models import (
    check_unchanged,
    compute_tiny_logits,
    draw_random_scores,
    make_pruned_model,
    make_tiny_model,
    make_uneven_plan,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

import lightpeft
from lightpeft import LightPeftError, PruningPlan
from lightpeft.core.adapter_layout import parse_adapter_key
from lightpeft.core.kept_units import KeptUnits
from lightpeft.exporting.compressing import make_compressed_model
from lightpeft.modeling.adapters import get_adapter_state_dict
from lightpeft.pruning import checkpoint
from lightpeft.pruning.checkpoint import compress_result
from lightpeft.pruning.compression import compress_adapter, decompress_adapter

FILE = "adapter_compressed.safetensors"


def get_products(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The change of each linear's weight, without its scaling."""
    return {
        key.linear: weight.double() @ weights[name.replace("lora_B", "lora_A")].double()
        for name, weight in weights.items()
        if (key := parse_adapter_key(name)) and key.weight == "lora_B.weight"
    }


def find_error(weights: dict[str, Tensor], plan: PruningPlan, fraction: float) -> float:
    """What is lost of the change, as a fraction of it."""
    before = get_products(weights)
    after = get_products(decompress_adapter(compress_adapter(weights, plan, fraction), plan))
    lost = sum(float((before[path] - after[path]).square().sum()) for path in before)
    return (lost / sum(float(x.square().sum()) for x in before.values())) ** 0.5


@pytest.fixture(scope="module")
def model() -> PeftModel:
    return make_pruned_model()


@pytest.fixture
def folder(model: PeftModel, tmp_path: Path) -> Path:
    lightpeft.save(model, tmp_path / "whole")
    compress_result(tmp_path / "whole", tmp_path / "small", 0.1)
    return tmp_path / "small"


@pytest.mark.parametrize("fraction", [1e-9, 0.05, 0.5, 1.0])
def test_what_is_loaded_is_what_is_unpacked_in_memory(
    fraction: float, model: PeftModel, tmp_path: Path
):
    lightpeft.save(model, tmp_path / "whole")
    compress_result(tmp_path / "whole", tmp_path / "small", fraction)

    loaded = lightpeft.load(make_tiny_model(), tmp_path / "small")

    expected = make_compressed_model(model, fraction)
    weights, others = get_adapter_state_dict(loaded), get_adapter_state_dict(expected)
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert torch.equal(compute_tiny_logits(loaded), compute_tiny_logits(expected))


def test_task_head_is_kept_and_the_model_is_not_changed(model: PeftModel):
    with check_unchanged(model):
        compressed = get_adapter_state_dict(make_compressed_model(model, 0.05))
    head = {k: x for k, x in get_adapter_state_dict(model).items() if parse_adapter_key(k) is None}
    assert head
    assert all(torch.equal(compressed[name], x) for name, x in head.items())


@pytest.mark.parametrize("fraction", [0.05, 0.2, 1.0])
def test_signs_are_those_of_the_largest_changes_of_all_modules(fraction: float, model: PeftModel):
    plan, weights = lightpeft.get_plan(model), get_adapter_state_dict(model)

    unpacked = decompress_adapter(compress_adapter(weights, plan, fraction), plan)

    values, signs = [], []
    for path, change in get_products(weights).items():
        b = unpacked[f"base_model.model.{path}.lora_B.weight"]
        left, sizes, _ = torch.linalg.svd(change, full_matrices=False)
        u = torch.zeros(b.shape, dtype=torch.double)  # of which few outputs leave columns of 0
        rank = min(b.shape[1], len(sizes))
        u[:, :rank] = left[:, :rank] * sizes[:rank]
        values.append(u.flatten())
        # A singular vector may as well point the other way.
        signs.append(torch.where((u * b).sum(dim=0) < 0, -b, b).flatten())
    expected, found = torch.cat(values), torch.cat(signs)
    kept = found != 0
    assert int(kept.sum()) == round(fraction * len(found))
    assert (expected * found >= 0).all()
    if fraction < 1:
        assert expected[kept].abs().min() >= expected[~kept].abs().max()


def test_more_signs_lose_less(model: PeftModel):
    plan, weights = lightpeft.get_plan(model), get_adapter_state_dict(model)
    errors = [find_error(weights, plan, fraction) for fraction in (0.02, 0.1, 0.4)]
    assert 1 > errors[0] > errors[1] > errors[2] > 0


def test_every_sign_is_kept_and_a_change_of_signs_is_exact_but_for_the_bits_of_a(model: PeftModel):
    """U of one rank is a column of signs: only rounding A to 4 bits is lost."""
    plan = lightpeft.get_plan(model)
    generator = torch.Generator().manual_seed(0)
    weights = dict(get_adapter_state_dict(model))
    for name, weight in weights.items():
        key = parse_adapter_key(name)
        if key and key.weight == "lora_B.weight":
            drawn = torch.rand(len(weight), generator=generator)
            weights[name] = torch.zeros_like(weight)
            weights[name][:, 0] = torch.where(drawn < 0.5, -0.25, 0.25)

    unpacked = decompress_adapter(compress_adapter(weights, plan, 1.0), plan)

    for path, change in get_products(unpacked).items():
        expected = get_products(weights)[path]
        limit = expected.abs().max() / 7 / 2
        torch.testing.assert_close(change, expected, rtol=0, atol=float(limit) * 1.01)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(0.0, 1.0, exclude_min=True))
def test_any_plan_and_fraction_gives_the_shapes_of_the_plan(seed: int, fraction: float):
    scores = SCORES[seed % 3]
    plan = make_uneven_plan(scores, seed=seed)
    weights = lightpeft.pruning.adapter_slicing.slice_adapter(scores.adapter, plan)

    unpacked = decompress_adapter(compress_adapter(weights, plan, fraction), plan)

    assert {k: x.shape for k, x in unpacked.items()} == {k: x.shape for k, x in weights.items()}
    assert find_error(weights, plan, fraction) <= 1.1


def test_untrained_adapter_changes_nothing(model: PeftModel):
    plan = lightpeft.get_plan(model)
    weights = {
        name: torch.zeros_like(x) if "lora_B" in name else x
        for name, x in get_adapter_state_dict(model).items()
    }
    unpacked = decompress_adapter(compress_adapter(weights, plan, 0.3), plan)
    assert not any(x.any() for x in get_products(unpacked).values())


def test_several_compressed_adapters_share_one_base(folder: Path, model: PeftModel):
    loaded = lightpeft.load(make_tiny_model(), folder.with_name("whole"))
    lightpeft.load(loaded, folder, adapter_name="small")
    whole = compute_tiny_logits(loaded)
    loaded.set_adapter("small")
    alone = lightpeft.load(make_tiny_model(), folder)

    assert torch.equal(compute_tiny_logits(loaded), compute_tiny_logits(alone))
    assert not torch.equal(compute_tiny_logits(loaded), whole)


def test_compressed_adapter_is_saved_whole_and_expanded(folder: Path, tmp_path: Path):
    loaded = lightpeft.load(make_tiny_model(), folder)
    lightpeft.save(loaded, folder)  # beside the compressed file, whose digest is gone
    again = lightpeft.load(make_tiny_model(), folder)
    assert torch.equal(compute_tiny_logits(again), compute_tiny_logits(loaded))

    lightpeft.expand_adapter(folder, tmp_path / "full")
    assert PeftModel.from_pretrained(make_tiny_model(), str(tmp_path / "full"))


def test_stock_peft_does_not_load_it_without_a_word(folder: Path):
    with pytest.raises((ValueError, OSError)):
        PeftModel.from_pretrained(make_tiny_model(), str(folder))


def test_any_flipped_bit_is_refused(folder: Path, tmp_path: Path):
    base, drawn = make_tiny_model(), random.Random(0)
    for name in (FILE, "plan.json", "adapter_config.json", "SHA256SUMS"):
        for _ in range(4):
            copy = Path(shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True))
            data = bytearray((copy / name).read_bytes())
            data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
            (copy / name).write_bytes(data)
            with check_unchanged(base), pytest.raises(LightPeftError):
                lightpeft.load(base, copy)


def drop(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.pop(f"compressed.{name}")


def cut(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update(
        {f"compressed.{name}": tensors[f"compressed.{name}"][:-1]}
    )


def put(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({f"compressed.{name}": value})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("levels"), "compressed tensors must be compressed.high, "),
        (put("more", torch.zeros(1)), "compressed tensors must be"),
        (put("scales", torch.zeros(2, 2)), "each of one dimension"),
        (put("scales", torch.zeros(4, dtype=torch.float64)), "compressed tensors must be"),
        (put("scales", torch.tensor([float("nan")])), "holds NaN or infinity"),
        (
            put("high", torch.full((10_000,), 255, dtype=torch.uint8)),
            "high has 10,000 values, more",
        ),
        (put("levels", torch.zeros(10_000, dtype=torch.uint8)), "levels has 10,000 values, more"),
        (cut("high"), "not that of the plan: "),
        (cut("low"), r"values of \d bits are not"),
        (cut("signs"), "values of 1 bits are not"),
        (cut("levels"), "values of 4 bits are not"),
        (cut("scales"), r"ranks have \d+ scales"),
        (lambda tensors: tensors.clear(), "compressed tensors must be"),
    ],
)
def test_other_tensors_with_right_digests_are_refused(
    edit: Callable[[dict[str, Tensor]], None], message: str, folder: Path
):
    tensors = load_file(folder / FILE)
    edit(tensors)
    plan = PruningPlan.load(folder / "plan.json")
    save_file(tensors, folder / FILE, {"plan": plan.digest})
    seal(folder)
    base = make_tiny_model()
    with check_unchanged(base), pytest.raises(LightPeftError, match=message) as caught:
        lightpeft.load(base, folder)
    assert "\n" not in str(caught.value)


def test_adapter_of_another_model_is_refused_before_it_is_unpacked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def unpack(*_: object) -> None:
        raise AssertionError

    other = make_pruned_model(seed=1)
    monkeypatch.setattr(checkpoint, "decompress_adapter", unpack)
    with pytest.raises(LightPeftError, match="the plan was made for base weights"):
        lightpeft.load(make_tiny_model(seed=1), folder)
    with pytest.raises(LightPeftError, match="the model was pruned by another plan"):
        lightpeft.load(other, folder, adapter_name="small")


def test_adapter_larger_than_the_linears_that_it_changes_is_refused(model: PeftModel):
    plan = lightpeft.get_plan(model)
    packed = compress_adapter(get_adapter_state_dict(model), plan, 0.1)
    ranks = KeptUnits(total=2**19, kept=tuple(range(2**19)), reason="test")
    huge = replace(plan, ranks={x: ranks if y.kept else y for x, y in plan.ranks.items()})
    with pytest.raises(LightPeftError, match="values, more than 16,777,216"):
        decompress_adapter(packed, huge)


def test_sizes_of_the_plan_are_checked_before_anything_is_allocated(model: PeftModel):
    plan = lightpeft.get_plan(model)
    packed = compress_adapter(get_adapter_state_dict(model), plan, 0.1)
    blocks = tuple(
        replace(
            block,
            linears={
                path: replace(x, **{"inputs" if x.pruned_dim == "out" else "outputs": 2**40})
                for path, x in block.linears.items()
            },
        )
        for block in plan.shape.blocks
    )
    huge = replace(plan, shape=replace(plan.shape, blocks=blocks))
    with pytest.raises(LightPeftError, match="values, more than 2,147,483,648"):
        decompress_adapter(packed, huge)


SCORES = [
    draw_random_scores(make_tiny_model(), seed=seed, r=r) for seed, r in enumerate((1, 4, 40))
]
