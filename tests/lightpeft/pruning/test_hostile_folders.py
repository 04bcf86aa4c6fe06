"""Whatever the bytes of a result folder are: it loads, or is one line and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.sealing import edit_plan, seal
from helpers.tiny_models import logits, random_scores, tiny_model, uneven_plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

import lightpeft
from lightpeft.core.config import PruningConfig
from lightpeft.core.errors import LightPeftError
from lightpeft.core.scores import Scores
from lightpeft.pruning.adapter_slicing import slice_adapter

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


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = [at] if at else []
    if isinstance(value, dict | list):
        for key, child in items:
            found += _paths(child, (*at, key)) if isinstance(child, dict | list) else [(*at, key)]
    return found


@st.composite
def flipped_bytes(draw: st.DrawFn, names: tuple[str, ...]) -> tuple[str, Mutation]:
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
def edited_json(draw: st.DrawFn, names: tuple[str, ...]) -> tuple[str, Mutation]:
    """A key or an item dropped, renamed, doubled or given another value; digests recomputed."""
    name = draw(st.sampled_from(names))
    kind = draw(st.sampled_from(["drop", "rename", "set", "add", "flip a letter"]))
    choice, value = draw(st.floats(0, 1, exclude_max=True)), draw(_VALUES)

    def mutate(folder: Path) -> None:
        raw = json.loads((folder / name).read_text())
        paths = _paths(raw)
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
def edited_tensors(draw: st.DrawFn, names: tuple[str, ...]) -> tuple[str, Mutation]:
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


@dataclass
class Lab:
    """A saved model, a saved estimation, and what became of their mutations."""

    root: Path
    outcomes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.base = self._new_base()
        self.before = {name: weight.clone() for name, weight in self.base.state_dict().items()}
        self.types = [type(module) for module in self.base.modules()]
        model = self._new_base()
        scores = random_scores(model)
        scores.save(self.root / "scores")
        lightpeft.save(lightpeft.prune(model, uneven_plan(scores), scores), self.root / "model")
        self.expected = logits(lightpeft.load(self._new_base(), self.root / "model"))
        self.digest = scores.digest

    @staticmethod
    def _new_base() -> PreTrainedModel:
        return tiny_model(num_hidden_layers=2)

    def copy(self, kind: str) -> Path:
        """A fresh copy of what was saved."""
        folder = self.root / "mutated"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.root / kind, folder)
        return folder

    def try_mutation(self, kind: str, what: str, mutate: Mutation) -> None:
        """Mutate a copy and load it: it is equal, or an edit with fitting digests, or one line."""
        folder = self.copy(kind)
        mutate(folder)
        names = [path.name for path in folder.iterdir()]
        files = [self.root / kind / name for name in names]
        same = all((folder / x.name).read_bytes() == x.read_bytes() for x in files)
        start = time.monotonic()
        try:
            equal = self.load(kind, folder)
        except LightPeftError as error:
            assert not same
            text = str(error)
            assert text.isprintable(), what
            assert len(text) <= 300, what
            self.outcomes["refused"] += 1
        else:
            fits = (folder / "SHA256SUMS").read_bytes() != (
                self.root / kind / "SHA256SUMS"
            ).read_bytes()
            assert equal or fits, what
            self.outcomes["equal" if equal else "loads: a valid edit"] += 1
        assert time.monotonic() - start < 20, what
        if kind == "model":
            assert [type(module) for module in self.base.modules()] == self.types, what
            after = self.base.state_dict()
            assert after.keys() == self.before.keys(), what
            assert all(torch.equal(x, self.before[name]) for name, x in after.items()), what

    def load(self, kind: str, folder: Path) -> bool:
        """Load a folder; whether it is what was saved."""
        if kind == "scores":
            scores = Scores.load(folder)
            if scores.digest == self.digest:
                return True
            slice_adapter(scores.adapter, lightpeft.make_plan(scores, PruningConfig(align=1)))
            return False
        base, self.base = self.base, self._new_base()
        try:
            loaded = lightpeft.load(base, folder)
        except BaseException:
            self.base = base
            raise
        return torch.equal(logits(loaded), self.expected)


_MODEL = ("adapter_config.json", WEIGHTS, "plan.json", "SHA256SUMS")
_SCORES = (*_MODEL[:2], "scores.json", "scores.safetensors", "curve.csv", "SHA256SUMS")
_MUTATIONS = st.one_of(
    st.tuples(
        st.just("model"),
        flipped_bytes(_MODEL)
        | edited_json(("adapter_config.json", "plan.json"))
        | edited_tensors((WEIGHTS,)),
    ),
    st.tuples(
        st.just("scores"),
        flipped_bytes(_SCORES)
        | edited_json(("adapter_config.json", "scores.json"))
        | edited_tensors((WEIGHTS, "scores.safetensors")),
    ),
)
_SETTINGS = settings(
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("place", ["a folder", "a pipe", "a device", "a loop of links"])
@pytest.mark.parametrize(("kind", "names"), [("model", _MODEL), ("scores", _SCORES)])
def test_what_is_no_file_is_refused_before_it_is_read(
    lab: Lab, kind: str, names: tuple[str, ...], place: str
):
    def mutate(folder: Path, name: str) -> None:
        path = folder / name
        path.unlink()
        if place == "a folder":
            path.mkdir()
        elif place == "a pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero" if place == "a device" else name)

    for name in names:
        folder = lab.copy(kind)
        mutate(folder, name)
        with pytest.raises(LightPeftError, match=rf"{name} (is not a|can't be)|no SHA256SUMS"):
            lab.load(kind, folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "plan.json"])
@pytest.mark.parametrize(
    "text",
    [
        "{" + ",".join(f'"k{n}":{n}' for n in range(500_000)) + "}",
        '{"peft_type":"LORA","target_modules":[' + ",".join(['"a"'] * 500_000) + "]}",
        '{"format":"lightpeft-plan-4","notes":' + "[" * 500_000 + "]" * 500_000 + "}",
    ],
    ids=["many keys", "long list", "deep list"],
)
def test_large_json_takes_a_few_seconds_at_most(lab: Lab, name: str, text: str):
    folder = lab.copy("model")
    (folder / name).write_text(text)
    seal(folder)
    start = time.monotonic()

    with pytest.raises(LightPeftError) as caught:
        lab.load("model", folder)

    assert len(str(caught.value)) <= 300
    assert time.monotonic() - start < 20


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@settings(_SETTINGS, max_examples=200)
@given(_MUTATIONS)
def test_mutated_folder_is_equal_or_one_line(lab: Lab, mutation: tuple[str, tuple[str, Mutation]]):
    kind, (what, mutate) = mutation
    lab.try_mutation(kind, what, mutate)


@pytest.mark.long
@settings(_SETTINGS, max_examples=10_000)
@given(_MUTATIONS)
def test_ten_thousand_mutated_folders_are_equal_or_one_line(
    lab: Lab, mutation: tuple[str, tuple[str, Mutation]]
):
    kind, (what, mutate) = mutation
    lab.try_mutation(kind, what, mutate)
