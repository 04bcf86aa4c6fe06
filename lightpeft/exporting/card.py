"""The model card of an export: what it is, what was cut, how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, try_to_load_from_cache
from peft import PeftModel
from torch import Tensor

from lightpeft.core.kept_units import format_fraction
from lightpeft.core.names import BOTTLENECK, DORA, LORA
from lightpeft.core.plan import PruningPlan
from lightpeft.exporting.record import ADAPTER_FORMATS, ExportFormat, ExportRecord
from lightpeft.pruning.prune import get_plan

CARD = "README.md"
_TEXT = """# {title}

{what} It was pruned and fine-tuned with lightpeft, by the method of
[Light-PEFT](https://arxiv.org/abs/2406.03792): what the task does not need is removed.

## Loading

DIR is this folder.

```python
{code}
```

## Base model and training

{facts}

## What was cut

{cut}

```
{summary}
```

## Check

Before this folder was written, it was loaded in a fresh process{where}, and its outputs
were compared with those of what it was made from. The largest difference is {difference:.2g}, of
outputs up to {scale:.3g}: see `exported.json`. `hf upload` puts the folder on the hub as it is.
"""
_ADAPTERS = {LORA: "A LoRA adapter", DORA: "A DoRA adapter", BOTTLENECK: "A bottleneck adapter"}
_METHOD_TAGS = {LORA: "lora", DORA: "dora", BOTTLENECK: "bottleneck-adapter"}
_WHAT: dict[ExportFormat, str] = {
    "compact": "{adapter} for a pruned base model, and the plan of the pruning.",
    "lifted": "A LoRA adapter for the unpruned base model, trained on a pruned one.",
    "merged": "A pruned model with its LoRA adapter folded in.",
    "stock": "A pruned model with its LoRA adapter folded in, for its stock class.",
    "padded": "A pruned model with its LoRA adapter folded in, and zeros where units were pruned.",
    "onnx": "A pruned model with its LoRA adapter folded in, as an ONNX graph in float32.",
    "deci": "A pruned model with its LoRA adapter folded in, in the layout of DeciLM.",
}
_STOCK_CODE = 'from transformers import {model_class}\nmodel = {model_class}.from_pretrained("DIR")'
_CODE: dict[ExportFormat, str] = {
    "compact": (
        "import lightpeft, transformers\n"
        'base = transformers.{model_class}.from_pretrained("{base}"{labels})\n'
        'model = lightpeft.load(base, "DIR")'
    ),
    "lifted": (
        "import peft, transformers\n"
        'base = transformers.{model_class}.from_pretrained("{base}"{labels})\n'
        'model = peft.PeftModel.from_pretrained(base, "DIR")'
    ),
    "merged": 'import lightpeft\nmodel = lightpeft.from_pretrained("DIR")',
    "stock": _STOCK_CODE,
    "padded": _STOCK_CODE,
    "onnx": 'import onnxruntime\nsession = onnxruntime.InferenceSession("DIR/model.onnx")',
    "deci": (
        "import vllm  # or llama.cpp: python convert_hf_to_gguf.py DIR\n"
        'model = vllm.LLM("DIR", trust_remote_code=True)  # of configuration_decilm.py'
    ),
}


@dataclass(frozen=True, kw_only=True)
class ExportDetails:
    """What goes into an export besides the model.

    Attributes:
        batch: the model's keyword arguments, to check the export on; None: random ones.
        processor: tokenizer or image processor, written beside the model; None: none.
        base: id on the hub of the base model, for the model card, like all that follow; empty: the
            name that it was loaded by, unless that is a folder.
        revision: commit of the base model; empty: the one that it was loaded from.
        license: of the base model; empty: as its own card says, if that is on this machine.
        data: what it was trained on, in a line.
        metrics: name of a metric and what it was measured on -> its value.

    Example:
        >>> details = lightpeft.ExportDetails(license="apache-2.0", metrics={"accuracy": 0.91})
    """

    batch: Mapping[str, Tensor] | None = None
    processor: Any = None
    base: str = ""
    revision: str = ""
    license: str = ""
    data: str = ""
    metrics: Mapping[str, float | str] = field(default_factory=dict)


def find_base(model: PeftModel, details: ExportDetails) -> tuple[str, str]:
    """Return id on the hub and commit of the base model; empty where they are not known."""
    name = str(model.config._name_or_path or "")
    commit = details.revision or getattr(model.config, "_commit_hash", None) or ""
    return details.base or ("" if Path(name).is_dir() else name), commit


def write_card(
    folder: Path, title: str, model: PeftModel, record: ExportRecord, details: ExportDetails
) -> None:
    """Write README.md, with the metadata that the hub reads."""
    plan, name = get_plan(model), str(model.config._name_or_path or "")
    base, commit = find_base(model, details)
    is_adapter = record.to in ADAPTER_FORMATS
    data = ModelCardData(
        base_model=base or None,
        base_model_relation="adapter" if is_adapter else "finetune",
        library_name="peft" if is_adapter else "onnx" if record.to == "onnx" else "transformers",
        license=details.license or _read_license(name, base) or None,
        tags=["light-peft", "pruning", _METHOD_TAGS[plan.peft_type], plan.shape.model_type],
    )
    has_labels = record.model_class.endswith("Classification")
    text = _TEXT.format(
        title=title,
        what=_WHAT[record.to].format(adapter=_ADAPTERS[plan.peft_type]),
        code=_CODE[record.to].format(
            model_class=record.model_class,
            base=base or "BASE",
            labels=f", num_labels={model.config.num_labels}" if has_labels else "",
        ),
        cut=_describe_cut(plan),
        summary=plan.summary(),
        facts=_describe_facts(commit, details, data, record),
        where=" that can't import lightpeft" if record.without_lightpeft else "",
        difference=record.max_difference,
        scale=record.largest_output,
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / CARD)


def _describe_cut(plan: PruningPlan) -> str:
    """Return what is kept, as a list, and the settings that the plan was made with."""
    kept = {"layers": plan.layers, "heads": plan.heads, "neurons": plan.neurons}
    lines = [
        f"- {name} kept: {format_fraction(units.values())}" for name, units in kept.items() if units
    ]
    if plan.settings:
        settings = ", ".join(f"{name} {value}" for name, value in plan.settings.items())
        lines.append(f"- settings: {settings}")
    return "\n".join(lines)


def _describe_facts(
    commit: str, details: ExportDetails, data: ModelCardData, record: ExportRecord
) -> str:
    """Return base model, licence and data as a list, and metrics as a table."""
    at = f" at commit {commit}" if commit else ""
    lines = [
        f"- base model: {data.base_model or 'a local folder, here BASE'}{at}",
        f"- licence of the base model: {data.license or 'unknown here; see its own card'}",
    ]
    if record.compression:
        lines.append(f"- {record.compression}; metrics may be those from before")
    lines += [f"- {note}" for note in record.notes]
    if details.data:
        lines.append(f"- trained on: {details.data}")
    if details.metrics:
        lines += ["", "| metric | value |", "|---|---:|"]
        lines += [f"| {name} | {value} |" for name, value in details.metrics.items()]
    return "\n".join(lines)


def _read_license(name: str, base: str) -> str:
    """Return the licence that the card of a base model names, if it is on this machine."""
    path = Path(name) / CARD if name and Path(name).is_dir() else None
    if path is None and base.count("/") == 1:
        cached = try_to_load_from_cache(base, CARD)
        path = Path(cached) if isinstance(cached, str) else None
    if path is None or not path.is_file():
        return ""
    return str(ModelCard.load(path, ignore_metadata_errors=True).data.get("license") or "")
