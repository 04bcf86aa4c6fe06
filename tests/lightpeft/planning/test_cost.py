import re

import pytest
from helpers.tiny_models import estimate_tiny_scores, make_lora, make_tiny_batch, make_tiny_model
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode

import lightpeft
from lightpeft.core.config import PruningConfig
from lightpeft.core.errors import PlanError
from lightpeft.planning.cost import PARTS, compute_cost
from lightpeft.profiling.workload import compute_plan_cost

ROWS, LENGTH = 4, 11
HEAD = ["pooler", "classifier"]
LAYERS = "bert.encoder.layer"


def _flops(model, *, backward):
    with FlopCounterMode(display=False) as counter:
        loss = model(**make_tiny_batch(rows=ROWS, length=LENGTH)).loss
        if backward:
            loss.backward()
    return counter.get_total_flops() / (ROWS * LENGTH)


def _bert_with_adapters(targets, ranks=None):
    """A tiny BERT with LoRA on the linears that a pattern names, its shape, and all ranks."""
    base = make_tiny_model(attention="eager")
    shape = lightpeft.inspect_model(base)
    config = make_lora(
        target_modules="|".join(re.escape(n) for n in shape.linears if re.search(targets, n)),
        rank_pattern={f"^{re.escape(name)}": rank for name, rank in (ranks or {}).items()},
        modules_to_save=HEAD,
    )
    model = get_peft_model(base, config)
    adapters = {n: 4 for n in shape.linears if re.search(targets, n)} | (ranks or {})
    return model, shape, adapters


def _uncut(shape, ranks, length=LENGTH):
    return compute_cost(shape, shape.count_unpruned(ranks), length=length)


def _assert_as_counted(table, model):
    """Equal but for the head's biases, which count as weights."""
    forward, both = (_flops(model, backward=backward) for backward in (False, True))
    assert table.total.inference_flops_per_token == pytest.approx(forward, rel=1e-3)
    assert table.total.training_flops_per_token == pytest.approx(both, rel=1e-3)


def test_trainable_parameters_are_the_adapters_and_the_trained_part_of_the_head():
    model, shape, ranks = _bert_with_adapters("")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    table = _uncut(shape, ranks)

    assert table.total.trainable == trained
    without_pooler = table.parts["head"].parameters - (32 * 32 + 32)
    less = table.replace_trained_head(without_pooler)
    assert less.total.trainable == trained - (32 * 32 + 32)
    assert less.total.parameters == table.total.parameters


@pytest.mark.parametrize(
    ("targets", "ranks"),
    [
        ("", {}),
        ("", {f"{LAYERS}.0.attention.self.query": 1, f"{LAYERS}.2.output.dense": 7}),
        (r"layer\.[12]\.", {}),
        (r"layer\.2\.", {}),
        (r"layer\.1\.(intermediate|output)", {}),
        (r"layer\.1\.output\.dense", {}),
        (r"layer\.0\.attention\.output", {}),
    ],
    ids=["all", "mixed ranks", "upper two", "top layer", "feed-forward", "last linear", "output"],
)
def test_flops_are_those_that_torch_counts(targets, ranks):
    model, shape, ranks = _bert_with_adapters(targets, ranks)

    _assert_as_counted(_uncut(shape, ranks), model)


def test_flops_of_a_pruned_model_are_those_that_torch_counts():
    model = make_tiny_model(attention="eager")
    scores = estimate_tiny_scores(model, modules_to_save=HEAD)
    plan = lightpeft.make_plan(
        scores, PruningConfig(heads=0.25, neurons=0.4, modules=0.0, ranks=0.2)
    )

    pruned = lightpeft.prune(model, plan, scores)

    _assert_as_counted(compute_plan_cost(plan, length=LENGTH), pruned)


def test_a_lowest_block_with_few_adapters_is_overestimated_by_attention_alone():
    model, shape, ranks = _bert_with_adapters(r"layer\.0\.attention\.self\.value")
    attention = 8 * LENGTH * 32

    over = _uncut(shape, ranks).total.training_flops_per_token - _flops(model, backward=True)

    # Only the value's gradient is needed: one of the four products of backward.
    assert over == pytest.approx(attention * 3 / 4, rel=0.03)


def test_without_adapters_backward_ends_at_the_head():
    shape = lightpeft.inspect_model(make_tiny_model())
    parts = _uncut(shape, {}).parts

    for name in ("attention", "feed_forward"):
        assert parts[name].training_flops_per_token == parts[name].inference_flops_per_token


def test_longer_rows_cost_more_a_token_in_attention_only():
    shape = lightpeft.inspect_model(make_tiny_model())
    short, long = (_uncut(shape, {}, length=length).parts for length in (10, 30))

    before, after = (parts["attention"].inference_flops_per_token for parts in (short, long))
    width, blocks = 32, 3
    assert after - before == 4 * (30 - 10) * width * blocks
    assert long["feed_forward"] == short["feed_forward"]


def test_a_table_is_written_with_its_total():
    shape = lightpeft.inspect_model(make_tiny_model())
    written = _uncut(shape, dict.fromkeys(shape.linears, 2)).to_dict()
    blocks = sum(linear.outputs * (linear.inputs + 1) for linear in shape.linears.values())
    assert written["attention"]["parameters"] + written["feed_forward"]["parameters"] == blocks

    total = written.pop("total")
    assert tuple(written) == PARTS
    for name, value in total.items():
        assert value == sum(part[name] for part in written.values())


def test_an_adapter_on_no_block_linear_is_refused():
    shape = lightpeft.inspect_model(make_tiny_model())
    with pytest.raises(PlanError, match=r"bert\.pooler\.dense is no block linear of this bert"):
        _uncut(shape, {"bert.pooler.dense": 4})


def test_kept_units_set_the_side_of_a_linear_that_carries_them():
    linears = lightpeft.inspect_model(make_tiny_model()).linears
    query = linears[f"{LAYERS}.0.attention.self.query"]
    output = linears[f"{LAYERS}.0.attention.output.dense"]

    assert (query.compute_pruned_shape(3), output.compute_pruned_shape(3)) == ((32, 24), (24, 32))
