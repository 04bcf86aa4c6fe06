"""One registry of tasks; the names of their kinds are those that params.yaml may name."""

import pytest
from transformers import AutoConfig

from pipeline.common.errors import ConfigError
from pipeline.common.params import DataSection
from pipeline.common.task_kinds import TASK_KINDS, check_task_kind
from pipeline.metrics.definitions import METRICS
from pipeline.tasks.registry import SCHEMAS, TASKS, choose_task


def test_every_kind_of_params_yaml_has_a_schema_and_tasks():
    assert tuple(SCHEMAS) == TASK_KINDS
    assert {task.schema.kind for task in TASKS.values()} == set(TASK_KINDS)
    assert all(kind in str(DataSection.model_fields["kind"].description) for kind in TASK_KINDS)


def test_people_read_the_names_of_params_yaml_and_can_tell_tasks_apart():
    shown = [task.describe() for task in TASKS.values()]

    assert len({*shown}) == len(shown)
    assert all(name.split()[0] in TASK_KINDS for name in shown)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_metrics_of_a_task_are_defined_and_allowed_by_its_schema(task):
    allowed = {*task.schema.metrics, *task.schema.regression_metrics}

    assert {*task.metrics, *task.optional} <= allowed <= METRICS.keys()


@pytest.mark.parametrize("kind", TASK_KINDS)
def test_a_model_without_any_head_is_refused_by_each_kind_that_needs_one(kind):
    config = AutoConfig.for_model("vit")
    tasks = [task for task in TASKS.values() if task.schema.kind == kind]
    if any(task.supports(["a", "b"], config) for task in tasks):
        assert choose_task(SCHEMAS[kind], ["a", "b"], config) in tasks
    else:
        with pytest.raises(ConfigError, match=rf"'vit' does not support data\.kind {kind}, .*such"):
            choose_task(SCHEMAS[kind], ["a", "b"], config)


@pytest.mark.parametrize(
    ("old", "new"),
    [("classify", "text-classification"), ("tokens", "token-classification")],
)
def test_a_former_name_is_refused_with_the_new_one(old, new):
    with pytest.raises(ConfigError, match=f"^data.kind {old} is now {new}$"):
        check_task_kind(old)
