"""A compiled model computes what it computes eagerly; graphs are counted and limited."""

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AlbertModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lightpeft.acceleration import compile as compile_module
from lightpeft.acceleration.compile import compiled, list_layers
from lightpeft.core.errors import LightPeftError, ModelError


class Layer(GradientCheckpointingLayer):
    """A layer of its own inner width."""

    def __init__(self, width: int, *, breaking: bool = False) -> None:
        super().__init__()
        self.up, self.down, self.breaking = nn.Linear(4, width), nn.Linear(width, 4), breaking

    def forward(self, x):
        x = self.up(x)
        if self.breaking:
            torch._dynamo.graph_break()
        return self.down(x.relu())


def make_stack(*widths: int, breaking: bool = False) -> nn.Module:
    """Layers of these inner widths, one after the other."""
    torch.manual_seed(0)
    return nn.Sequential(*(Layer(width, breaking=breaking) for width in widths))


def run(model: nn.Module, rows: int = 3) -> torch.Tensor:
    """Outputs for that many rows."""
    return model(torch.full((rows, 4), 0.5))


@pytest.mark.parametrize(("widths", "graphs"), [((5, 5, 5), 1), ((5, 6, 5), 2)])
def test_blocks_of_one_width_share_a_graph(widths, graphs):
    torch.compiler.reset()
    model = make_stack(*widths)
    expected = run(model)
    with torch.no_grad(), compiled(model, "blocks", backend="eager") as counts:
        torch.testing.assert_close(run(model), expected)

    assert (counts.modules, counts.distinct, counts.graphs) == (3, graphs, graphs)
    assert (counts.recompilations, counts.graph_breaks) == (0, [])
    assert counts.seconds > 0
    assert counts.describe().endswith(f"{graphs} graphs, 0 recompilations, no graph breaks")


@pytest.mark.parametrize(("dynamic", "recompilations"), [(True, 0), (None, 1), (False, 2)])
def test_another_number_of_rows_recompiles_unless_sizes_are_dynamic(dynamic, recompilations):
    torch.compiler.reset()
    model = make_stack(5, 5)
    with torch.no_grad(), compiled(model, "blocks", backend="eager", dynamic=dynamic) as counts:
        for rows in (3, 6, 7):
            run(model, rows)

    assert counts.recompilations == recompilations


def test_torch_s_limit_of_graphs_is_multiplied_by_the_widths_and_then_an_error(monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr(compile_module, "_GRAPHS_PER_LAYER", 1)
    model, rows = make_stack(5, 6, 7), []

    def run_with_two_sizes() -> None:
        with compiled(model, "blocks", backend="eager", dynamic=False):
            for size in (3, 6):
                run(model, size)
                rows.append(size)

    with torch._dynamo.config.patch(recompile_limit=0), torch.no_grad():
        with pytest.raises(LightPeftError, match=r"made 3 graphs of one piece of code"):
            run_with_two_sizes()

    assert rows == [3]
    assert torch._dynamo.config.recompile_limit == 8


def test_reasons_of_graph_breaks_are_told():
    torch.compiler.reset()
    model = make_stack(5, breaking=True)
    with torch.no_grad(), compiled(model, "blocks", backend="eager") as counts:
        run(model)

    assert counts.graphs == 2
    assert counts.graph_breaks == ["Call to `torch._dynamo.graph_break()`"]
    assert counts.describe().endswith("graph breaks for 1 reasons")


def test_after_the_context_and_with_off_the_model_runs_eagerly():
    torch.compiler.reset()
    model, seen = make_stack(5, 5), []

    def backend(graph, inputs):
        seen.append(graph)
        return graph

    with torch.no_grad():
        with compiled(model, "off", backend=backend) as nothing:
            run(model)
        with compiled(model, "whole", backend=backend) as counts:
            run(model)
        run(model, 7)

    assert (len(seen), counts.graphs, counts.modules) == (1, 1, 1)
    assert (nothing.graphs, nothing.describe()) == (0, "compiled nothing")


def test_what_a_compiler_refuses_is_one_line():
    torch.compiler.reset()

    def refuse(graph, inputs):
        raise RuntimeError("No working C++ compiler found\nin a long report")

    model = make_stack(5)
    with (
        pytest.raises(LightPeftError, match=r"^torch\.compile failed: .*No working.* found$"),
        compiled(model, "whole", backend=refuse),
    ):
        run(model)


def test_layers_that_are_used_several_times_are_no_blocks():
    config = AlbertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=8)
    with pytest.raises(ModelError, match=r"AlbertModel has no layers.*compile the whole model"):
        list_layers(AlbertModel(config))
