"""Load an export in a fresh process and write what it computes: python -I reload.py REQUEST

Runs as a file, so that it works where lightpeft can't be imported: nothing of lightpeft is imported
at the top.
"""

from __future__ import annotations

import importlib.abc
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NOT_COMPARED = ("loss", "past_key_values")
ONNX_FILE = "model.onnx"


class _Blocker(importlib.abc.MetaPathFinder):
    """Refuse to import lightpeft."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "lightpeft":
            raise ModuleNotFoundError("lightpeft is blocked in this process", name=name)


def compute_outputs(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the logits, or all floating-point outputs of a model without logits.

    Args:
        model: in evaluation mode.
        batch: its keyword arguments.
    """
    import torch

    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)  # some models draw numbers, such as the patches to leave out
        outputs = dict(model(**batch).items())
    if "logits" in outputs:
        outputs = {"logits": outputs["logits"]}
    return {
        name: value.float().clone(memory_format=torch.contiguous_format)
        for name, value in outputs.items()
        if isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and name not in NOT_COMPARED
    }


def load_stock(folder: str, attention: str) -> Any:
    """Load a folder with the transformers class that its config names, in float32."""
    import torch
    import transformers

    name = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["architectures"]
    model, info = getattr(transformers, name[0]).from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            raise ValueError(f"{folder} has {problem}: {min(info[problem])}")
    return model


def run_export(request: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an export computes, run as its readers do."""
    if request["format"] != "onnx":
        return compute_outputs(load_export(request).eval(), batch)
    import onnxruntime
    import torch

    path = str(Path(request["folder"]) / ONNX_FILE)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {x.name: batch[x.name].numpy() for x in session.get_inputs()})
    names = [x.name for x in session.get_outputs()]
    return {name: torch.from_numpy(x) for name, x in zip(names, outputs, strict=True)}


def load_export(request: Mapping[str, Any]) -> Any:
    """Load an export as its readers do."""
    folder, attention = request["folder"], request["attention"]
    if request["format"] == "merged":
        from lightpeft import from_pretrained

        return from_pretrained(folder, dtype="float32", attn_implementation=attention)
    if request["format"] not in ("compact", "lifted"):
        return load_stock(folder, attention)
    base = load_stock(request["base"], attention)
    if request["format"] == "compact":
        import lightpeft

        return lightpeft.load(base, folder)
    from peft import PeftModel

    return PeftModel.from_pretrained(base, folder)


def main(path: str) -> None:
    """Do what a request says: see `lightpeft.exporting.check.check_export`."""
    request = json.loads(Path(path).read_text(encoding="utf-8"))
    sys.path[:] = request["sys_path"]
    if request["block_lightpeft"]:
        sys.meta_path.insert(0, _Blocker())
    from safetensors.torch import load_file, save_file

    save_file(run_export(request, load_file(request["batch"])), request["outputs"])


if __name__ == "__main__":
    main(sys.argv[1])
