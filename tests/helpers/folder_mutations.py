"""Mutations of the folders that `lightpeft.save` and `Scores.save` write, for hypothesis."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from helpers.sealing import edit_plan, seal
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

WEIGHTS = "adapter_model.safetensors"
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 70)
    | st.sampled_from([10**30, 2**62, -(2**63), 1.5, 0.0, 1e300, "", "0-3", "LORA", "\ud800\n\x00"])
    | st.text(max_size=8)
)
_VALUES = st.recursive(
    _LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=4), x, max_size=3)
)
Mutation = Callable[[Path], None]


def _list_paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = [at] if at else []
    if isinstance(value, dict | list):
        for key, child in items:
            found += (
                _list_paths(child, (*at, key)) if isinstance(child, dict | list) else [(*at, key)]
            )
    return found


@st.composite
def flip_bytes(draw: st.DrawFn, names: tuple[str, ...]) -> tuple[str, Mutation]:
    """Bits flipped, bytes cut out or put in, of any file; digests recomputed or not."""
    name, sealed = draw(st.sampled_from(names)), draw(st.booleans())
    kind = draw(st.sampled_from(["flip", "cut", "insert"]))
    position, bit = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(0, 7))
    extra = draw(st.binary(min_size=1, max_size=20))

    def mutate(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        start = int(position * len(data))
        if kind == "flip":
            data[start] ^= 1 << bit
        elif kind == "cut":
            del data[start : start + len(extra)]
        else:
            data[start:start] = extra
        (folder / name).write_bytes(data)
        if sealed and name != "SHA256SUMS":
            seal(folder)

    return f"{kind} {name}{' sealed' * sealed}", mutate


@st.composite
def edit_json(draw: st.DrawFn, names: tuple[str, ...]) -> tuple[str, Mutation]:
    """A key or an item dropped, renamed, doubled or given another value; digests recomputed."""
    name = draw(st.sampled_from(names))
    kind = draw(st.sampled_from(["drop", "rename", "set", "add", "flip a letter"]))
    choice, value = draw(st.floats(0, 1, exclude_max=True)), draw(_VALUES)

    def mutate(folder: Path) -> None:
        raw = json.loads((folder / name).read_text())
        paths = _list_paths(raw)
        *parents, last = paths[int(choice * len(paths))]
        parent = raw
        for key in parents:
            parent = parent[key]
        if kind == "set":
            parent[last] = value
        elif kind == "add" and isinstance(parent, dict):
            parent[str(value)[:5]] = value
        elif kind == "add":
            parent.append(value)
        else:
            old = parent.pop(last)
            if kind == "rename" and isinstance(parent, dict):
                parent[f"{last}{value}"[:40]] = old
            if kind == "flip a letter" and isinstance(parent, dict) and last:
                at = int(choice * len(last))
                parent[f"{last[:at]}{chr(ord(last[at]) ^ 1)}{last[at + 1 :]}"] = old
        if name == "plan.json":
            edit_plan(folder, raw)
        else:
            (folder / name).write_text(json.dumps(raw))
            seal(folder)

    return f"{kind} {name}", mutate


@st.composite
def edit_tensors(draw: st.DrawFn, names: tuple[str, ...]) -> tuple[str, Mutation]:
    """A tensor dropped, renamed, of another shape, dtype or value; digests recomputed."""
    name, kind = draw(st.sampled_from(names)), draw(st.sampled_from(list(_EDITS)))
    choice = draw(st.floats(0, 1, exclude_max=True))

    def mutate(folder: Path) -> None:
        path = folder / name
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        tensors = load_file(path)
        key = sorted(tensors)[int(choice * len(tensors))]
        _EDITS[kind](tensors, key)
        save_file(tensors, path, header.get("__metadata__"))
        seal(folder)

    return f"{kind} {name}", mutate


def _move(tensors: dict[str, torch.Tensor], key: str, new: str) -> None:
    tensors[new] = tensors.pop(key)


def _spoil(tensors: dict[str, torch.Tensor], key: str, value: float) -> None:
    tensors[key].view(-1)[-1] = value


_EDITS: dict[str, Callable[[dict[str, torch.Tensor], str], Any]] = {
    "drop": lambda tensors, key: tensors.pop(key),
    "rename": lambda tensors, key: _move(tensors, key, key[:-1] + "x"),
    "layer 9": lambda tensors, key: _move(tensors, key, key.replace("layer.1", "layer.9")),
    "long name": lambda tensors, key: _move(tensors, key, key + "\n\x1b" * 5_000),
    "flatten": lambda tensors, key: tensors.update({key: tensors[key].flatten()}),
    "shorten": lambda tensors, key: tensors.update({key: tensors[key][:-1].clone()}),
    "scalar": lambda tensors, key: tensors.update({key: torch.tensor(1.0)}),
    "empty": lambda tensors, key: tensors.update({key: torch.empty(0, 7)}),
    "NaN": lambda tensors, key: _spoil(tensors, key, torch.nan),
    "infinity": lambda tensors, key: _spoil(tensors, key, torch.inf),
    "integers": lambda tensors, key: tensors.update({key: tensors[key].int()}),
    "booleans": lambda tensors, key: tensors.update({key: tensors[key].bool()}),
    "complex": lambda tensors, key: tensors.update({key: tensors[key].to(torch.complex64)}),
    "float8": lambda tensors, key: tensors.update({key: tensors[key].to(torch.float8_e4m3fn)}),
    "double": lambda tensors, key: tensors.update({key: tensors[key].double() * 1e300}),
}


MODEL_FILES = ("adapter_config.json", WEIGHTS, "plan.json", "SHA256SUMS")
SCORES_FILES = (*MODEL_FILES[:2], "scores.json", "scores.safetensors", "curve.csv", "SHA256SUMS")
MUTATIONS = st.one_of(
    st.tuples(
        st.just("model"),
        flip_bytes(MODEL_FILES)
        | edit_json(("adapter_config.json", "plan.json"))
        | edit_tensors((WEIGHTS,)),
    ),
    st.tuples(
        st.just("scores"),
        flip_bytes(SCORES_FILES)
        | edit_json(("adapter_config.json", "scores.json"))
        | edit_tensors((WEIGHTS, "scores.safetensors")),
    ),
)
