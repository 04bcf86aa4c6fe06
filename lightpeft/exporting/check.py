"""Check that an export computes what it was made from, in a fresh process."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from lightpeft.core.errors import CheckpointError
from lightpeft.core.serialization import write_json
from lightpeft.core.tensors import write_tensors
from lightpeft.exporting import reload
from lightpeft.exporting.record import STOCK_FORMATS, ExportFormat

# Fraction of the largest output. Both sides compute in float32, so that only the rounding of merged
# weights differs between dtypes.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_PACKAGES = ("torch", "transformers", "peft")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a reloaded export must compute.

    Attributes:
        batch: inputs, the model's keyword arguments.
        outputs: for these inputs, in float32.
        attention: the attention implementation that computed them.
        dtype: of the exported weights.
        base: the unpruned base model, for exports that hold an adapter.
    """

    batch: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    attention: str
    dtype: torch.dtype
    base: PreTrainedModel | None = None

    @property
    def tolerance(self) -> float:
        """The largest difference allowed, as a fraction of the largest output."""
        return _TOLERANCE.get(self.dtype, 1e-4)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a reloaded export is from what it was made from.

    Attributes:
        largest: absolute difference of an output.
        scale: largest absolute output.
        versions: of the packages that loaded the export.
    """

    largest: float
    scale: float
    versions: dict[str, str]


def check_export(folder: Path, to: ExportFormat, expected: Expected) -> Difference:
    """Load an export in a fresh process and compare its outputs.

    Formats that are read without lightpeft are loaded in a process that can't import it.

    Args:
        folder: with the export.
        to: its format.
        expected: inputs, and outputs for them.

    Raises:
        CheckpointError: the process can't load or run it, or its outputs differ.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as parent:
        outputs = _compute_outputs(Path(parent), folder, to, expected)
    if {k: x.shape for k, x in outputs.items()} != {
        k: x.shape for k, x in expected.outputs.items()
    }:
        raise CheckpointError(f"format {to}: reloaded, the export has other outputs")
    pairs = [(expected.outputs[name].cpu(), outputs[name]) for name in outputs]
    differences = [float((before - after).abs().max()) for before, after in pairs]
    largest = math.nan if any(map(math.isnan, differences)) else max(differences)
    scale = max(float(before.abs().max()) for before, _ in pairs)
    if not largest <= expected.tolerance * scale:
        raise CheckpointError(
            f"format {to}: reloaded, the export's outputs differ by {largest:.2g} from the "
            f"model's, which are up to {scale:.3g}; allowed is {expected.tolerance:g} of that; "
            f"nothing was replaced"
        )
    packages = (*_PACKAGES, "onnxruntime") if to == "onnx" else _PACKAGES
    versions = {name: version(name) for name in packages}
    return Difference(largest=largest, scale=scale, versions=versions)


def _compute_outputs(
    workspace: Path, folder: Path, to: ExportFormat, expected: Expected
) -> dict[str, Tensor]:
    """Run `reload.py` and return what it wrote."""
    # Labels of a language model may be its inputs, and safetensors refuse shared memory.
    batch = {name: tensor.clone() for name, tensor in expected.batch.items()}
    write_tensors(workspace / "batch.safetensors", batch)
    if expected.base is not None:
        expected.base.save_pretrained(workspace / "base")
    request = {
        "format": to,
        "folder": str(folder),
        "base": str(workspace / "base"),
        "batch": str(workspace / "batch.safetensors"),
        "outputs": str(workspace / "outputs.safetensors"),
        "attention": expected.attention,
        "block_lightpeft": to in STOCK_FORMATS,
        "sys_path": sys.path,
    }
    write_json(workspace / "request.json", request)
    error = run_reload(workspace / "request.json")
    if error:
        raise CheckpointError(
            f"format {to}: a fresh process can't load the export; nothing was replaced: {error}"
        )
    outputs: dict[str, Tensor] = load_file(workspace / "outputs.safetensors")
    return outputs


def run_reload(request: Path) -> str:
    """Run `reload.py` in a process of its own; return its last line of error, empty if none."""
    command = [sys.executable, "-I", str(reload.__file__), str(request)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if not done.returncode:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
