import re

import pytest
from helpers.import_graph import ROOT, reached
from ruamel.yaml import YAML

from pipeline.__main__ import STAGES

STAGE = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
# Files beside the code that a stage reads as they are.
_DATA = {
    "prepare": {"constraints.txt", "data/local"},
    "report": {"pipeline/report/templates"},
}


def _deps(stage: str) -> set[str]:
    return set(STAGE[stage]["deps"])


def test_dvc_yaml_runs_every_stage_in_order():
    assert tuple(STAGE) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_modules_that_it_imports(stage):
    listed = {dep for dep in _deps(stage) if dep.endswith(".py")}

    assert listed == reached(f"pipeline/stages/{stage}.py")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_only_what_it_depends_on(stage):
    others = {dep for dep in _deps(stage) if not dep.endswith(".py")}
    places = set(re.findall(r"\S*/\S+", STAGE[stage]["cmd"]))
    produced = {next(iter(out)) if isinstance(out, dict) else out for out in STAGE[stage]["outs"]}

    assert places - produced - {"metrics.json"} <= others
    assert others - _DATA.get(stage, set()) <= places


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_parameters_that_it_uses(stage):
    source = "".join(
        (ROOT / path).read_text() for path in {f"pipeline/stages/{stage}.py", *_helpers(stage)}
    )
    used = set(re.findall(r"\bparams\.(?!yaml)(\w+)", source))

    # A single key is named where the rest of its section changes nothing.
    assert {name.partition(".")[0] for name in STAGE[stage]["params"]} == used


def _helpers(stage: str) -> set[str]:
    """Modules of the pipeline that only this stage reaches, which read params for it."""
    mine = {p for p in reached(f"pipeline/stages/{stage}.py") if p.startswith("pipeline/")}
    others = [reached(f"pipeline/stages/{other}.py") for other in STAGES if other != stage]
    return mine.difference(*others)


def test_only_the_metrics_live_in_git():
    uncached = [
        path
        for stage in STAGE.values()
        for out in [*stage["outs"], *stage.get("metrics", []), *stage.get("plots", [])]
        if isinstance(out, dict)
        for path, settings in out.items()
        if settings.get("cache") is False
    ]

    assert uncached == ["metrics.json"]
