"""What `lightpeft inspect` says of a file or folder: values for JSON, and text for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from lightpeft.contents.recognize import Contents
from lightpeft.core.adapter_layout import parse_adapter_key
from lightpeft.core.block_shape import find_layer
from lightpeft.core.errors import escape_unprintable
from lightpeft.core.kept_units import KeptUnits, format_ranges
from lightpeft.core.names import EXPANDED_ENTRY
from lightpeft.core.plan import PruningPlan
from lightpeft.core.safetensors_header import SafetensorsHeader
from lightpeft.core.shape import ModelShape
from lightpeft.core.text_table import align_columns

_KINDS = {
    "result": "result of lightpeft.save: a pruned adapter and its plan",
    "compressed result": "compressed result of lightpeft.export: a pruned adapter and its plan",
    "plan": "pruning plan",
    "scores": "scores of lightpeft.estimate, and the adapter that it trained",
    "expanded adapter": "adapter expanded to full size, for stock peft on the unpruned base model",
    "adapter": "adapter of peft for an unpruned base model",
    "checkpoint": "checkpoint of a model",
    "graph": "ONNX graph of a pruned model, for onnxruntime",
    "weights": "safetensors",
}
_MAX_LINE = 400


def make_facts(contents: Contents) -> dict[str, Any]:
    """Return what is known of a file or folder as values for JSON; what does not apply is absent.

    `kept` are indices of the unpruned model, as `0-4,7`.
    """
    adapter, checkpoint = contents.adapter, contents.checkpoint
    facts: dict[str, Any] = {"kind": contents.kind, "path": str(contents.path)}
    if base := _find_base(contents):
        facts["base"] = base
    if adapter:
        facts["adapter"] = adapter.model_dump(
            exclude={"base_model_name_or_path", "revision"}, exclude_none=True
        )
        if contents.plan is None:
            facts["adapter"]["modules"] = _list_modules(contents.weights)
    if checkpoint:
        facts["checkpoint"] = checkpoint.model_dump(exclude_none=True)
        if contents.weights:
            facts["checkpoint"]["values_by_layer"] = _count_by_layer(contents.weights)
    if contents.scores:
        facts["scores"] = {
            "digest": contents.scores.digest,
            "steps": contents.scores.steps,
            "modules": contents.scores.modules,
        }
    if contents.export:
        facts["export"] = asdict(contents.export)
    if contents.plan:
        facts["plan"] = _make_plan_facts(contents.plan)
    if contents.weights:
        facts["files"] = [_make_file_facts(header) for header in contents.weights]
    facts["digests_checked"] = list(contents.checked)
    return facts


def _find_base(contents: Contents) -> dict[str, str]:
    """Return type, fingerprint, name and revision of the base model, as far as they are known."""
    source, adapter = contents.plan or contents.scores, contents.adapter
    base = {}
    if source:
        base = {"model_type": source.shape.model_type, "fingerprint": source.fingerprint}
    if adapter and adapter.base_model_name_or_path:
        base["name"] = adapter.base_model_name_or_path
    if adapter and adapter.revision:
        base["revision"] = adapter.revision
    return base


def _make_plan_facts(plan: PruningPlan) -> dict[str, Any]:
    before, after = plan.count_parameters()
    return {
        "digest": plan.digest,
        "scores": plan.scores,
        "settings": plan.settings,
        "notes": list(plan.notes),
        "parameters": {"before": before, "after": after},
        "layers": _make_unit_facts(plan.layers),
        "heads": _make_unit_facts(plan.heads),
        "neurons": _make_unit_facts(plan.neurons),
        "modules": {
            path: units | dict(zip(("inputs", "outputs"), shape, strict=True))
            for path, units in _make_unit_facts(plan.ranks).items()
            for shape in [plan.compute_pruned_shape(path)]
        },
    }


def _make_unit_facts(units: Mapping[str, KeptUnits]) -> dict[str, Any]:
    return {
        path: {"count": len(x.kept), "total": x.total, "kept": format_ranges(x.kept)}
        for path, x in units.items()
    }


def _make_file_facts(header: SafetensorsHeader) -> dict[str, Any]:
    values: Counter[str] = Counter()
    for tensor in header.tensors.values():
        values[tensor.dtype] += tensor.size
    return {
        "name": header.path.name,
        "bytes": header.num_bytes,
        "tensors": len(header.tensors),
        "values": header.num_values,
        "values_by_dtype": dict(values),
        "metadata": header.metadata,
    }


def _list_modules(weights: Iterable[SafetensorsHeader]) -> dict[str, Any]:
    """Return path of a linear -> rank of its PEFT module, and inputs and outputs of that."""
    modules: dict[str, dict[str, int]] = {}
    for header in weights:
        for name, tensor in header.tensors.items():
            key = parse_adapter_key(name)
            if key and len(tensor.shape) == len(key.dims) == 2:
                module = modules.setdefault(key.linear, {})
                module |= dict(zip(key.dims, tensor.shape, strict=True))
    return modules


def _count_by_layer(weights: Iterable[SafetensorsHeader]) -> dict[str, int]:
    values: Counter[str] = Counter()
    for header in weights:
        for name, tensor in header.tensors.items():
            values[find_layer(name) or name.rpartition(".")[0] or name] += tensor.size
    return dict(values)


def format_contents(contents: Contents, *, modules: bool = False) -> str:
    """Return what is known of a file or folder as text, with a table of layers.

    Args:
        contents: from `read_contents`.
        modules: whether to add a table of the PEFT modules.
    """
    facts = make_facts(contents)
    rows = [(key, value) for key, value in _list_rows(contents, facts) if value]
    lines = [f"{key:<11} {value}" for key, value in rows]
    tables = [*_make_layer_table(contents, facts)]
    if modules:
        tables += _make_module_table(contents, facts)
    return "\n".join(_clean_line(line) for line in [*lines, *tables])


def _clean_line(line: str) -> str:
    """Return a line without what a terminal would act on; names in files can hold anything."""
    text = escape_unprintable(line)
    return text if len(text) <= _MAX_LINE else f"{text[: _MAX_LINE - 4]} ..."


def _list_rows(contents: Contents, facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and value of each line above the tables."""
    base, checkpoint = facts.get("base", {}), facts.get("checkpoint")
    yield "what", _KINDS[contents.kind]
    if contents.export:
        yield "export", str(contents.export)
    yield "base", ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in base.items())
    if checkpoint:
        names = ", ".join(checkpoint.get("architectures", ()))
        yield "model", f"model type {checkpoint['model_type']}" + (f", {names}" if names else "")
    if adapter := facts.get("adapter"):
        shown = {k: v for k, v in adapter.items() if k != "modules" and v is not False}
        yield "adapter", _join(shown)
    if contents.scores:
        yield "scores", f"{facts['scores']['digest']}, after {contents.scores.steps:,} steps"
        yield "can cut", _describe_shape(contents.scores.shape, len(contents.scores.modules))
    for header in contents.weights:
        if digest := header.metadata.get(EXPANDED_ENTRY):
            yield "pruned by", f"plan {digest}"
    if plan := facts.get("plan"):
        yield "plan", f"{plan['digest']}, made from scores {plan['scores']}"
        yield "settings", _join(plan["settings"])
    for file in facts.get("files", ()):
        dtypes = ", ".join(file["values_by_dtype"])
        yield (
            "file",
            f"{file['name']}: {file['bytes']:,} bytes, {file['tensors']:,} tensors, "
            f"{file['values']:,} values of {dtypes or 'no type'}",
        )
    if contents.checked:
        yield "digests", f"right for {', '.join(contents.checked)}"


def _join(values: Mapping[str, Any]) -> str:
    texts = (x if isinstance(x, str) else json.dumps(x) for x in values.values())
    return ", ".join(f"{key} {text}" for key, text in zip(values, texts, strict=True))


def _describe_shape(shape: ModelShape, modules: int) -> str:
    layers = sum(len(stack.prunable) for stack in shape.stacks)
    heads, neurons = sum(shape.heads.values()), sum(shape.neurons.values())
    return f"{layers} layers, {heads:,} heads, {neurons:,} neurons, {modules:,} PEFT modules"


def _make_layer_table(contents: Contents, facts: dict[str, Any]) -> list[str]:
    if contents.plan:
        return contents.plan.summary().splitlines()
    if (checkpoint := facts.get("checkpoint")) and contents.weights:
        values = {**checkpoint["values_by_layer"], "total": _sum_values(contents)}
        return align_columns(
            [("layer", "values"), *((name, f"{size:,}") for name, size in values.items())], left=1
        )
    return []


def _sum_values(contents: Contents) -> int:
    return sum(header.num_values for header in contents.weights)


def _make_module_table(contents: Contents, facts: dict[str, Any]) -> list[str]:
    if contents.plan:
        modules = facts["plan"]["modules"]
        rows = [
            (path, f"{x['count']} of {x['total']}", f"{x['inputs']:,}", f"{x['outputs']:,}")
            for path, x in modules.items()
            if x["count"]
        ]
    else:
        modules = facts.get("adapter", {}).get("modules", {})
        rows = [
            (path, *(f"{x[key]:,}" if key in x else "" for key in ("rank", "inputs", "outputs")))
            for path, x in modules.items()
        ]
    header = ("PEFT module", "rank", "inputs", "outputs")
    return align_columns([header, *rows], left=1) if rows else []
