"""Write a merged model as an ONNX graph, for any number of rows and tokens."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightpeft.core.errors import ModelError
from lightpeft.exporting.reload import ONNX_FILE, compute_outputs

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def write_onnx(model: PreTrainedModel, folder: Path, batch: Mapping[str, Tensor]) -> None:
    """Write `model.onnx`, in float32, and the config, whose labels name the outputs.

    Attention is that of eager, which also defines what a position without any other one to attend
    to computes: SDPA leaves it to the runtime. The graph of a decoder computes logits, without a
    cache of keys and values.

    Args:
        model: from `merge_adapter`; it is changed to float32 and eager attention.
        folder: to write to.
        batch: the model's keyword arguments, for their names and dimensions.

    Raises:
        ModelError: a package is missing, the model is an encoder-decoder, or torch can't trace it.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ModelError(f"format onnx needs {missing[0]}: pip install 'lightpeft[onnx]'")
    if model.config.is_encoder_decoder:
        raise ModelError(
            f"format onnx is for encoders, decoders and image models, and {model.config.model_type}"
            f" has both an encoder and a decoder; take format merged"
        )
    model.float().eval().set_attn_implementation("eager")
    model.config.dtype = model.dtype
    model.config.save_pretrained(folder)
    inputs = {
        name: _change_size(rows.to(model.device))
        for name, rows in batch.items()
        if "label" not in name
    }
    graph = _Graph(model, list(inputs), list(compute_outputs(model, inputs)))
    try:
        _trace(graph, inputs, folder / ONNX_FILE)
    except Exception as error:  # torch.export and onnxscript raise whatever they like
        cause: BaseException = error
        while cause.__cause__ is not None:  # the last one says which operator
            cause = cause.__cause__
        raise ModelError(f"format onnx: torch can't trace the model: {cause}") from error


class _Graph(nn.Module):
    """A model whose inputs and outputs are tensors in order."""

    def __init__(self, model: PreTrainedModel, inputs: Sequence[str], outputs: list[str]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs
        has_cache = hasattr(model.config.get_text_config(), "use_cache")
        self.options = {"use_cache": False} if has_cache else {}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(**dict(zip(self.inputs, inputs, strict=True)), **self.options)
        return tuple(outputs[name] for name in self.outputs)


def _change_size(rows: Tensor) -> Tensor:
    """Return more rows, and of texts one token less: the check then has other sizes.

    torch would also take a dimension of one for a constant. It would record the strides of rows
    that are not contiguous, which ONNX can't say.
    """
    doubled = torch.cat([rows, rows])
    return doubled if rows.is_floating_point() else doubled[..., :-1].contiguous()


def _trace(graph: _Graph, inputs: Mapping[str, Tensor], path: Path) -> None:
    dynamic = torch.export.Dim.DYNAMIC
    shapes: list[dict[int, Any]] = [
        dict.fromkeys(range(1 if rows.is_floating_point() else rows.dim()), dynamic)
        for rows in inputs.values()
    ]
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph,
                tuple(inputs.values()),
                path,
                dynamo=True,
                dynamic_shapes={"inputs": tuple(shapes)},
                input_names=list(inputs),
                output_names=graph.outputs,
            )
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
