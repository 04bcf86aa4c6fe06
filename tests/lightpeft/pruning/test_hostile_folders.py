"""Whatever the bytes of a result folder are: it loads, or is one line and changes nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from helpers.folder_mutations import MODEL_FILES, MUTATIONS, SCORES_FILES, Mutation
from helpers.sealing import seal
from helpers.tiny_models import (
    compute_tiny_logits,
    draw_random_scores,
    make_tiny_model,
    make_uneven_plan,
)
from hypothesis import HealthCheck, given, settings
from transformers import PreTrainedModel

import lightpeft
from lightpeft.core.config import PruningConfig
from lightpeft.core.errors import LightPeftError
from lightpeft.core.scores import Scores
from lightpeft.pruning.adapter_slicing import slice_adapter


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
        scores = draw_random_scores(model)
        scores.save(self.root / "scores")
        lightpeft.save(
            lightpeft.prune(model, make_uneven_plan(scores), scores), self.root / "model"
        )
        self.expected = compute_tiny_logits(lightpeft.load(self._new_base(), self.root / "model"))
        self.digest = scores.digest

    @staticmethod
    def _new_base() -> PreTrainedModel:
        return make_tiny_model(num_hidden_layers=2)

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
        return torch.equal(compute_tiny_logits(loaded), self.expected)


_SETTINGS = settings(
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("place", ["a folder", "a pipe", "a device", "a loop of links"])
@pytest.mark.parametrize(("kind", "names"), [("model", MODEL_FILES), ("scores", SCORES_FILES)])
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


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.long)])
def test_mutated_folders_are_equal_or_one_line(
    lab: Lab, count: int, write_line: Callable[[str], None]
):
    @settings(_SETTINGS, max_examples=count)
    @given(MUTATIONS)
    def try_one(mutation: tuple[str, tuple[str, Mutation]]) -> None:
        kind, (what, mutate) = mutation
        lab.try_mutation(kind, what, mutate)

    lab.outcomes.clear()
    try_one()

    write_line(f"{lab.outcomes.total():,} mutated folders: {dict(lab.outcomes)}")
    assert lab.outcomes.total() >= count
    assert lab.outcomes["refused"] > lab.outcomes["equal"] > 0
