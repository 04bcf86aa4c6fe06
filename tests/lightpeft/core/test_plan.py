"""plan.json: readable, read back as written, and refused when it is not a plan."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.sealing import seal_plan
from helpers.tiny_models import draw_random_scores, make_tiny_model, make_uneven_plan

from lightpeft.core.errors import PlanError
from lightpeft.core.kept_units import KeptUnits
from lightpeft.core.plan import PruningPlan

ATTENTION = "bert.encoder.layer.0.attention"


@pytest.fixture(scope="module")
def plan() -> PruningPlan:
    drawn = make_uneven_plan(draw_random_scores(make_tiny_model()))
    settings = {"heads": 1 / 3, "criterion": "taylor", "align": 8, "seed": 0}
    return dataclasses.replace(drawn, settings=settings, notes=("a note",))


def test_plan_is_read_as_it_was_written(plan: PruningPlan, tmp_path: Path):
    plan.save(tmp_path / "plan.json")

    again = PruningPlan.load(tmp_path / "plan.json")

    assert again == plan
    assert again.digest == plan.digest
    again.save(tmp_path / "again.json")
    assert (tmp_path / "plan.json").read_bytes() == (tmp_path / "again.json").read_bytes()


def test_plan_file_is_readable(plan: PruningPlan, tmp_path: Path):
    cut = KeptUnits(total=4, kept=(0, 1, 3), reason="because")
    dataclasses.replace(plan, heads=plan.heads | {ATTENTION: cut}).save(tmp_path / "plan.json")

    raw = json.loads((tmp_path / "plan.json").read_text())

    assert raw["heads"][ATTENTION] == {"total": 4, "kept": "0-1,3", "reason": "because"}
    assert raw["notes"] == ["a note"]


def test_digest_changes_with_any_choice(plan: PruningPlan):
    digests = {plan.digest}
    for group in ("heads", "neurons", "ranks"):
        cuts = getattr(plan, group)
        name = list(cuts)[1]
        moved = tuple(sorted({*range(cuts[name].total)} - {*cuts[name].kept}))
        changed = cuts | {name: dataclasses.replace(cuts[name], kept=moved)}
        digests.add(dataclasses.replace(plan, **{group: changed}).digest)

    assert len(digests) == 4


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ((1, 0), "must ascend without repeats"),
        ((1, 1), "must ascend without repeats"),
        ((0, 4), "must be from 0 to 3"),
        ((-1, 2), "must be from 0 to 3"),
    ],
)
def test_impossible_cut_is_refused(kept: tuple[int, ...], message: str):
    with pytest.raises(PlanError, match=message):
        KeptUnits(total=4, kept=kept, reason="")


@pytest.mark.parametrize(
    ("group", "name", "cut", "message"),
    [
        (
            "heads",
            ATTENTION,
            KeptUnits(total=4, kept=(), reason=""),
            "keeps no head, but .* would revive",
        ),
        (
            "heads",
            ATTENTION,
            KeptUnits(total=8, kept=(7,), reason=""),
            "not those of its model shape",
        ),
        ("neurons", "x", KeptUnits(total=8, kept=(7,), reason=""), "not those of its model shape"),
        (
            "ranks",
            "bert.pooler.dense",
            KeptUnits(total=4, kept=(1,), reason=""),
            "no linear of its model",
        ),
    ],
)
def test_contradicting_plan_is_refused(
    plan: PruningPlan, group: str, name: str, cut: KeptUnits, message: str
):
    with pytest.raises(PlanError, match=message):
        dataclasses.replace(plan, **{group: getattr(plan, group) | {name: cut}})


def test_plan_that_keeps_no_module_is_refused(plan: PruningPlan):
    with pytest.raises(PlanError, match="keeps no PEFT module: nothing would be trained"):
        dataclasses.replace(plan, ranks={})


def edited(raw: dict[str, Any], path: str, value: object) -> str:
    *parents, last = path.split("/")
    parent = raw
    for key in parents:
        parent = parent[int(key) if isinstance(parent, list) else key]
    if isinstance(parent, list):
        parent[int(last)] = value
    elif value is None:
        del parent[last]
    else:
        parent[last] = value
    return json.dumps(seal_plan(raw))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", "lightpeft-plan-0"),
        ("format", None),
        ("fingerprint", None),
        ("heads", None),
        ("heads", []),
        ("heads", {}),
        (f"heads/{ATTENTION}", {}),
        (f"heads/{ATTENTION}/kept", ""),
        (f"heads/{ATTENTION}/kept", "0-9"),
        (f"heads/{ATTENTION}/kept", "3-0"),
        (f"heads/{ATTENTION}/kept", "0-99999999999999"),
        (f"heads/{ATTENTION}/kept", "1,0"),
        (f"heads/{ATTENTION}/kept", "a"),
        (f"heads/{ATTENTION}/kept", [0, 1]),
        (f"heads/{ATTENTION}/total", 40),
        (f"heads/{ATTENTION}/total", "4"),
        (f"heads/{ATTENTION}/reason", None),
        ("shape", {}),
        ("shape/blocks", []),
        ("shape/blocks", {}),
        ("shape/blocks/0", {}),
        ("shape/blocks/0/kind", "convolution"),
        ("shape/blocks/0/kind", "feed_forward"),
        ("shape/blocks/0/path", "bert.encoder.layer.1.attention"),
        ("shape/blocks/0/units", 5),
        ("shape/blocks/0/linears", {"x": {}}),
        ("shape/blocks/0/linears", {}),
        ("shape/blocks/0/linears", []),
        (f"shape/blocks/0/linears/{ATTENTION}.output.dense/pruned_dim", "out"),
        (f"shape/blocks/0/linears/{ATTENTION}.self.key/segments", ["rows"]),
        (f"shape/blocks/0/linears/{ATTENTION}.self.key/segments", []),
        (f"shape/blocks/0/linears/{ATTENTION}.self.key/unit_size", 0),
        (f"shape/blocks/0/linears/{ATTENTION}.self.key/heads_per_kv_group", -1),
        ("ranks", {"x": {"total": 4, "kept": "0", "reason": ""}}),
        ("notes", None),
        (f"heads/{ATTENTION}/total", 4.0),
        (f"heads/{ATTENTION}/total", True),
        (f"heads/{ATTENTION}/kept", "0-1,0-1"),
        (f"neurons/{ATTENTION.removesuffix('.attention')}/total", 10**30),
        ("ranks/x", {"total": 2**40, "kept": "0-999999999999", "reason": ""}),
        ("shape/blocks/0/path", "bert.encoder.layer.0.attentiom"),
        ("shape/blocks/0/units", 4.0),
        ("shape/blocks/0/extra", 1),
        ("shape/non_block_parameters/head", 10**4000),
        ("settings", []),
        ("settings/deep", json.loads("[" * 900 + "]" * 900)),
    ],
)
def test_edited_plan_is_one_line(plan: PruningPlan, tmp_path: Path, path: str, value: object):
    file = tmp_path / "plan.json"
    plan.save(file)
    file.write_text(edited(json.loads(file.read_text()), path, value))

    with pytest.raises(PlanError, match=rf"\A{re.escape(str(file))}.*\Z"):
        PruningPlan.load(file)


def test_edit_without_its_digest_is_noticed(plan: PruningPlan, tmp_path: Path):
    file = tmp_path / "plan.json"
    plan.save(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scores": "0" * 16}))

    with pytest.raises(PlanError, match="has changed since it was saved: its digest is another"):
        PruningPlan.load(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ('{"a": 1e999}', "1e999 is not a finite number"),
        ('{"a": NaN}', "NaN is not a finite number"),
        ('{"a": ' + "1" * 5000 + "}", "is not readable JSON"),
        (" " * (2**25 + 1), "is too large: at most 33,554,432 bytes are read"),
    ],
)
def test_json_that_no_writer_makes_is_one_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "plan.json").write_text(text)

    with pytest.raises(PlanError, match=message):
        PruningPlan.load(tmp_path / "plan.json")


def test_file_that_reading_would_never_end_of_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(PlanError, match="is not a regular file"):
            PruningPlan.load(path)


def test_message_is_one_line_whatever_a_name_is(plan: PruningPlan, tmp_path: Path):
    file, name = tmp_path / "plan.json", "x\n\x1b[31m\ud800" + "y" * 10_000
    plan.save(file)
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(seal_plan(raw | {"fingerprint": {name: 0}, name: 1})))

    with pytest.raises(PlanError) as caught:
        PruningPlan.load(file)

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 300


def test_plan_of_an_older_version_is_refused_with_what_to_do(plan: PruningPlan, tmp_path: Path):
    file = tmp_path / "plan.json"
    plan.save(file)
    file.write_text(edited(json.loads(file.read_text()), "format", "lightpeft-plan-2"))

    with pytest.raises(
        PlanError,
        match=r"plan\.json is lightpeft-plan-2, .*; run the stages estimate and prune again",
    ):
        PruningPlan.load(file)


def test_repr_is_one_short_line_of_counts(plan: PruningPlan):
    assert repr(plan) == (
        "PruningPlan(bert: 6 of 12 heads, 72 of 192 neurons, 14 of 18 PEFT modules, 33 of 72 ranks)"
    )
    assert repr(plan.shape) == (
        "ModelShape(bert: 3 attention blocks with 12 heads, 3 feed-forward blocks with 192 neurons)"
    )


def test_summary_is_a_table_of_layers_with_totals_parameters_and_notes(plan: PruningPlan):
    header, *layers, total, parameters, note = plan.summary().splitlines()

    assert header.split() == ["layer", "heads", "neurons", "PEFT", "modules", "ranks"]
    assert [line.split()[0] for line in layers] == [f"bert.encoder.layer.{n}" for n in range(3)]
    assert total.split()[:4] == ["total", "6", "of", "12"]
    assert parameters.startswith("parameters  ")
    assert note == "note: a note"
    assert len({len(line) for line in (header, *layers, total)}) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1}', "\x00", '"plan"', "[" * 90000])
def test_file_that_is_no_plan_is_one_line(tmp_path: Path, text: str):
    file = tmp_path / "plan.json"
    file.write_text(text)

    with pytest.raises(PlanError, match=rf"\A{re.escape(str(file))}.*\Z"):
        PruningPlan.load(file)


def test_plan_cut_short_anywhere_is_one_line(plan: PruningPlan, tmp_path: Path):
    file = tmp_path / "plan.json"
    plan.save(file)
    text = file.read_text()
    for end in range(0, len(text) - 2, len(text) // 40):
        file.write_text(text[:end])
        with pytest.raises(PlanError, match="was it cut short"):
            PruningPlan.load(file)


def test_missing_plan_is_one_line(tmp_path: Path):
    with pytest.raises(PlanError, match=r"nowhere\.json does not exist$"):
        PruningPlan.load(tmp_path / "nowhere.json")


def test_failed_save_leaves_the_old_plan(plan: PruningPlan, tmp_path: Path):
    file = tmp_path / "plan.json"
    plan.save(file)
    broken = dataclasses.replace(plan, settings={"heads": float("nan")})

    with pytest.raises(ValueError, match="JSON compliant"):
        broken.save(file)

    assert PruningPlan.load(file) == plan
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
