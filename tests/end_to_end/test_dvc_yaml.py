"""dvc.yaml agrees with the code: what a stage imports, reads, writes and is configured by."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.import_graph import ROOT, find_reached
from ruamel.yaml import YAML

from pipeline.__main__ import STAGES
from pipeline.common.params import (
    BenchmarkParams,
    EvaluateParams,
    ExportParams,
    FinetuneParams,
    PrepareParams,
    StageParams,
)
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import EstimateParams, Params, PruneParams
from pipeline.common.validation import find_section_class

PARAMS = {
    "prepare": PrepareParams,
    "estimate": EstimateParams,
    "prune": PruneParams,
    "finetune": FinetuneParams,
    "evaluate": EvaluateParams,
    "benchmark": BenchmarkParams,
    "report": Params,
    "export": ExportParams,
}
STAGE = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
METHOD = "${item.method}"
PATHS = Paths()
# What a stage reads and writes. A method's folder stands for the files in it.
READS = {
    "prepare": {Path("data/local")},
    "estimate": {PATHS.prepared},
    "prune": {PATHS.prepared, PATHS.scores},
    "finetune": {PATHS.prepared, PATHS.scores, PATHS.locate_plan(METHOD).parent},
    "evaluate": {PATHS.prepared, PATHS.locate_model(METHOD)},
    "benchmark": {PATHS.prepared, PATHS.locate_model(METHOD).parent, PATHS.estimate_timing.parent},
    "report": {
        PATHS.prepared,
        Path("artifacts"),
        PATHS.locate_evaluation(METHOD).parents[1],
        PATHS.benchmark,
    },
    "export": {
        PATHS.prepared,
        PATHS.locate_model(METHOD).parent,
        PATHS.locate_evaluation(METHOD).parents[1],
        PATHS.metrics,
    },
}
WRITES = {
    "prepare": {PATHS.prepared},
    "estimate": {PATHS.scores, PATHS.estimate_timing},
    "prune": {PATHS.locate_plan(METHOD).parent},
    "finetune": {PATHS.locate_model(METHOD), PATHS.locate_timing(METHOD)},
    "evaluate": {PATHS.locate_evaluation(METHOD).parent},
    "benchmark": {PATHS.benchmark},
    "report": {PATHS.metrics, PATHS.plots, PATHS.report},
    "export": {PATHS.export},
}


def _code(stage: str) -> set[str]:
    return {dep for dep in STAGE[stage]["deps"] if dep.startswith(("lightpeft/", "pipeline/"))}


def _covers(dep: str, path: str) -> bool:
    return path == dep or path.startswith(f"{dep}/")


def test_dvc_yaml_runs_every_stage_in_order():
    assert tuple(STAGE) == STAGES


def test_dvc_yaml_fits_on_three_screens():
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 160


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_folders_that_it_imports_from(stage):
    modules = find_reached(f"pipeline/stages/{stage}.py")
    covered = {dep: {path for path in modules if _covers(dep, path)} for dep in _code(stage)}

    assert modules == set().union(*covered.values())
    assert [dep for dep, paths in covered.items() if not paths] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_of_which_a_stage_imports_one_file_is_listed_as_that_file(stage):
    single = {dep for dep in _code(stage) if dep.endswith(".py")}
    cost = {"lightpeft/planning/cost.py"} if stage == "benchmark" else set()

    assert single == {f"pipeline/stages/{stage}.py"} | cost


@pytest.mark.parametrize("stage", STAGES)
def test_paths_are_those_of_dvc_yaml(stage):
    listed = [*STAGE[stage]["outs"], *STAGE[stage].get("metrics", [])]
    outs = {next(iter(out)) if isinstance(out, dict) else out for out in listed}

    assert {Path(dep) for dep in set(STAGE[stage]["deps"]) - _code(stage)} == READS[stage]
    assert {Path(out) for out in outs} == WRITES[stage]
    assert PATHS.locate_output(stage, METHOD) in WRITES[stage]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_parameters_that_it_reads(stage):
    assert [*_keys(PARAMS[stage])] == STAGE[stage]["params"]


def _keys(params: type[StageParams]) -> Iterator[str]:
    """Yield `section`, or `section.key` of sections that the stage reads in part."""
    for name in params.model_fields:
        section, full = find_section_class(params, name), find_section_class(Params, name)
        if section is full:
            yield name
        else:
            yield from (f"{name}.{key}" for key in section.model_fields)


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
