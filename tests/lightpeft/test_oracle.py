"""Models pruned by random plans compute what an independent reference computes; pytest -m long."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers.architecture_matrix import (
    build_parts,
    compute_loss,
    compute_outputs,
    generate_greedily,
    make_batch,
)
from helpers.architectures import ARCHITECTURES, LLAMA
from helpers.oracle import Reference, draw_plan, drop_zeros, hide_units, list_lora_gradients
from helpers.unregistered_architectures import BY_STRUCTURE
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

import lightpeft

MODELS = ARCHITECTURES | BY_STRUCTURE
FEW = ["bart", "bert", "bloom", "falcon, new", "gpt2", LLAMA, "phi3", "qwen3_next", "t5"]
PLANS = 24  # of each model
_TOLERANCE, _NOISE = 1e-3, 2e-5


@pytest.fixture(scope="module")
def totals(write_line: Callable[[str], None]) -> Iterator[Counter[str]]:
    counts: Counter[str] = Counter()
    yield counts
    write_line(f"{counts.total():,} comparisons with the reference: {dict(counts)}")


class Comparison:
    """One plan of one model: what is compared, and how often."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed
        kernels = MODELS[name].attention
        self.model, scores = build_parts(name, kernels[seed % len(kernels)])
        self.plan = draw_plan(scores, seed)
        self.reference = Reference(self.model, scores, self.plan)
        self.pruned = lightpeft.prune(copy.deepcopy(self.model), self.plan, scores)
        self.counts: Counter[str] = Counter()

    def compare(self, what: str, found: Tensor, expected: Tensor, *, scale: float = 0.0) -> None:
        """Compare up to rounding: of the tensor's largest value, and of the model's gradients."""
        where = f"{self.name}, plan {self.seed}: {what}"
        assert found.shape == expected.shape, where
        if found.numel():  # gradients of an emptied block are all zero
            atol = _TOLERANCE * float(expected.abs().max()) + _NOISE * scale
            torch.testing.assert_close(
                found, expected, rtol=0, atol=atol, msg=lambda text: f"{where}: {text}"
            )
            self.counts[what] += 1

    def compare_outputs(self) -> None:
        for seed in (self.seed, self.seed + 1000):
            outputs = (compute_outputs(m, self.name, seed=seed) for m in self.both())
            self.compare("outputs", *outputs)

    def both(self) -> tuple[PeftModel, PreTrainedModel]:
        return self.pruned, self.reference.model

    def compare_gradients(self) -> None:
        for model in self.both():
            compute_loss(model, make_batch(self.name, seed=self.seed)).backward()
        expected, found = self.reference.compute_lora_gradients(), list_lora_gradients(self.pruned)
        assert found.keys() == expected.keys()
        scale = max(float(gradient.abs().max()) for gradient in expected.values())
        for key in expected:
            rows = (drop_zeros(x[key], scale) for x in (found, expected))
            self.compare("gradients", *rows, scale=scale)

    def compare_generation(self) -> None:
        found, expected = (generate_greedily(m, self.name, seed=self.seed) for m in self.both())
        self.compare("generated tokens", found[0], expected[0])
        self.compare("generation with the cache", found[1], expected[1])

    def compare_files(self, folder: Path) -> None:
        outputs = compute_outputs(self.pruned, self.name)
        lightpeft.save(self.pruned, folder / "saved")
        loaded = lightpeft.load(copy.deepcopy(self.model), folder / "saved")
        assert torch.equal(compute_outputs(loaded, self.name), outputs)
        self.compare("loaded", outputs, compute_outputs(self.reference.model, self.name))
        lightpeft.expand_adapter(folder / "saved", folder / "full")
        stock = PeftModel.from_pretrained(copy.deepcopy(self.model), folder / "full")
        hide_units(stock.get_base_model(), self.plan)
        self.compare("expanded", compute_outputs(stock, self.name), outputs)

    def compare_compiled(self) -> None:
        torch.compiler.reset()
        compiled = torch.compile(self.pruned, backend="aot_eager")
        outputs = (compute_outputs(m, self.name) for m in (compiled, self.reference.model))
        self.compare("compiled", *outputs)


def compare_all(name: str, seed: int, folder: Path) -> Counter[str]:
    """Compare one plan in all that a model does: files with some plans, the compiler with one."""
    comparison = Comparison(name, seed)
    comparison.compare_outputs()
    comparison.compare_gradients()
    if MODELS[name].generates:
        comparison.compare_generation()
    if seed % 4 == 0:
        comparison.compare_files(folder / str(seed))
    if seed == PLANS:
        comparison.compare_compiled()
    return comparison.counts


@pytest.mark.parametrize("name", FEW)
def test_pruned_equals_the_reference(name: str, tmp_path: Path, totals: Counter[str]):
    totals += compare_all(name, 4, tmp_path)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler
@pytest.mark.parametrize("name", MODELS)
def test_pruned_equals_the_reference_by_many_plans(name: str, tmp_path: Path, totals: Counter[str]):
    counts: Counter[str] = Counter()
    for seed in range(1, 1 + PLANS):
        counts += compare_all(name, seed, tmp_path)

    totals += counts
    assert counts.total() >= 250
