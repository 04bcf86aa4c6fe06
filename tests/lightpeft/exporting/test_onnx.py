"""An ONNX graph computes what the pruned model computes, for rows and lengths not seen before."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from helpers.architecture_matrix import build_parts, compute_logits, draw_plan, make_batch
from helpers.architectures import LLAMA
from helpers.tiny_models import make_pruned_model
from torch import Tensor

import lightpeft
from lightpeft import ExportDetails, LightPeftError
from lightpeft.contents.facts import make_facts
from lightpeft.contents.recognize import read_contents
from lightpeft.exporting import onnx_graph

needs_onnx = pytest.mark.skipif(not find_spec("onnxruntime"), reason="the extra onnx is missing")


def run_graph(folder: Path, batch: dict[str, Tensor]) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    inputs = {x.name: batch[x.name].numpy() for x in session.get_inputs()}
    return torch.from_numpy(session.run(["logits"], inputs)[0])


@needs_onnx
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", ["bert", LLAMA, "gpt2", "vit"])
def test_graph_takes_any_number_of_rows_and_tokens(name: str, tmp_path: Path):
    model, scores = build_parts(name)
    plan = draw_plan(scores, empty=True)
    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores).eval()
    batch = make_batch(name)

    record = lightpeft.export(
        pruned, tmp_path / "out", format="onnx", details=ExportDetails(batch=batch)
    )

    assert record.max_difference <= 1e-4 * record.largest_output
    for rows, length in ((1, 5), (3, 12)):
        other = {
            key: x[:1].repeat(rows, *[1] * (x.dim() - 1))
            if x.is_floating_point()
            else torch.arange(3, 3 + length).repeat(rows, 1) ** (key == "input_ids")
            for key, x in batch.items()
        }
        with torch.no_grad():
            expected = compute_logits(pruned, other)
        torch.testing.assert_close(run_graph(tmp_path / "out", other), expected, rtol=0, atol=1e-4)


@needs_onnx
def test_fresh_process_runs_the_graph_without_lightpeft(tmp_path: Path):
    model = make_pruned_model()

    record = lightpeft.export(model, tmp_path / "out", format="onnx")

    assert record.without_lightpeft
    assert "onnxruntime" in record.versions
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"model.onnx", "config.json", "plan.json", "README.md"}
    facts = make_facts(read_contents(tmp_path / "out"))
    assert facts["kind"] == "graph"
    assert {"model.onnx", "plan.json"} <= {*facts["digests_checked"]}


@needs_onnx
def test_encoder_decoder_is_refused(tmp_path: Path):
    model, scores = build_parts("t5")
    pruned = lightpeft.prune(model, draw_plan(scores), scores)
    with pytest.raises(LightPeftError, match="t5 has both an encoder and a decoder; take format"):
        lightpeft.export(pruned, tmp_path / "out", format="onnx")


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnx_graph, "find_spec", lambda name: None)
    with pytest.raises(LightPeftError, match=r"onnx needs onnx: pip install 'lightpeft\[onnx\]'"):
        lightpeft.export(make_pruned_model(), tmp_path / "out", format="onnx")
