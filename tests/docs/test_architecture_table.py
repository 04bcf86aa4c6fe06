"""The table of supported architectures agrees with the registry and with what the tests show."""

from __future__ import annotations

import copy
import dataclasses
import runpy
from typing import Any

import pytest
import torch
import transformers
from helpers.architecture_matrix import (
    build,
    compute_logits,
    draw_plan,
    draw_scores,
    make_batch,
    shares_heads,
)
from helpers.architectures import ARCHITECTURES
from helpers.import_graph import ROOT
from transformers import PreTrainedModel

from docs.architecture_table import format_table
from lightpeft.core.kept_units import KeptUnits
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.families import FAMILIES
from lightpeft.modeling.slicing import slice_base

HEAD_KEYS = ("num_attention_heads", "num_key_value_heads", "num_heads")


def cells(model_type: str) -> list[str]:
    row = next(line for line in format_table().splitlines() if line.startswith(f"| {model_type} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def layouts(model_type: str) -> list[str]:
    return [
        name
        for name, architecture in ARCHITECTURES.items()
        if architecture.config().model_type == model_type
    ]


def test_docs_have_the_table_of_the_registry():
    text = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    start, end = "<!-- python -m docs.architecture_table -->\n", "<!-- end -->"

    assert text.split(start)[1].split(end)[0].strip() == format_table().strip()


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]):
    runpy.run_path(str(ROOT / "docs/architecture_table.py"), run_name="__main__")

    assert capsys.readouterr().out == format_table()


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_row_says_what_the_matrix_tests(model_type: str):
    names = layouts(model_type)
    _, heads, _, kernels, generation, _ = cells(model_type)

    assert heads.startswith("KV group") == any(map(shares_heads, names))
    assert ("SDPA" in kernels) == ("sdpa" in ARCHITECTURES[names[0]].attention)
    assert (generation == "yes") == ARCHITECTURES[names[0]].generates


def uniform(model: PreTrainedModel, *, heads: bool, neurons: bool) -> PruningPlan:
    """Half of the KV groups and half of the neurons, the same ones in every layer."""
    plan = draw_plan(draw_scores(model))

    def halves(cuts: dict[str, KeptUnits], cut: bool) -> dict[str, KeptUnits]:
        return {
            path: KeptUnits(
                total=c.total, kept=tuple(range(c.total // 2 if cut else c.total)), reason=""
            )
            for path, c in cuts.items()
        }

    return dataclasses.replace(
        plan, heads=halves(plan.heads, heads), neurons=halves(plan.neurons, neurons)
    )


def stock(name: str, model: PreTrainedModel, *, heads: bool, neurons: bool) -> PreTrainedModel:
    """The stock class, made from a config that says the halved sizes."""
    config = copy.deepcopy(model.config)
    for part in (config, *(getattr(config, f"{x}_config", None) for x in ("text", "vision"))):
        for key, value in vars(part).items() if part is not None else ():
            if (neurons and value == 40) or (heads and key in HEAD_KEYS and value):
                setattr(part, key, value // 2)
    if heads and not getattr(config, "head_dim", None) and "d_kv" not in vars(config):
        config.head_dim = model.config.hidden_size // model.config.num_attention_heads
    model_class: Any = getattr(transformers, ARCHITECTURES[name].model)
    return model_class._from_config(config, attn_implementation="eager").eval()


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if "one KV group" not in n])
def test_stock_config_can_say_what_the_row_says(name: str):
    model = build(name)
    expressible = cells(model.config.model_type)[-1]
    heads, neurons = "heads" in expressible, "neurons" in expressible
    if expressible == "no":
        return
    plan = uniform(model, heads=heads, neurons=neurons)
    plain = stock(name, model, heads=heads, neurons=neurons)
    slice_base(model, plan)

    # T5 keeps one table of position biases in a stack; cut alike, all layers have the same.
    own = {k: w for k, w in model.state_dict().items() if k in plain.state_dict()}
    assert all("relative_attention_bias" in key for key in model.state_dict().keys() - own.keys())
    plain.load_state_dict(own)

    with torch.no_grad():
        torch.testing.assert_close(
            compute_logits(plain, make_batch(name)),
            compute_logits(model, make_batch(name)),
            rtol=1e-5,
            atol=1e-5,
        )
