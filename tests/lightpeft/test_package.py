"""The package's face and its inner order."""

from __future__ import annotations

import ast
import rlcompleter
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers.import_graph import ROOT

import lightpeft
from lightpeft.modeling.families import FAMILIES

PACKAGE = ROOT / "lightpeft"


def parsed(module: str) -> ast.Module:
    return ast.parse(paths()[module].read_text(encoding="utf-8"))


def paths() -> dict[str, Path]:
    return {p.stem: p for p in PACKAGE.rglob("*.py") if p.stem not in ("__init__", "__main__")}


def modules() -> list[str]:
    return sorted(paths())


@pytest.mark.parametrize("name", lightpeft.__all__)
def test_public_name_resolves_and_is_documented(name: str):
    assert getattr(lightpeft, name).__doc__


def test_public_names_are_few_and_completed():
    completed = rlcompleter.Completer({"lightpeft": lightpeft}).attr_matches("lightpeft.")

    assert dir(lightpeft) == sorted(lightpeft.__all__)
    assert len(lightpeft.__all__) == len(set(lightpeft.__all__)) <= 24
    names = {name.removeprefix("lightpeft.").rstrip("()") for name in completed}
    assert {*lightpeft.__all__} - {"__version__"} <= names


def test_typed_imports_are_those_of_run_time():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        alias.asname: f"{node.module}.{alias.name}"
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert typed.keys() == {*lightpeft.__all__} - {"__version__"}
    for name, path in typed.items():
        value = getattr(lightpeft, name)
        assert f"{value.__module__}.{value.__name__}" == path


def test_a_users_script_sees_real_types(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "import lightpeft\n"
        "def run(scores: lightpeft.Scores) -> lightpeft.PruningPlan:\n"
        "    reveal_type(lightpeft.make_plan)\n"
        "    lightpeft.PruningConfig(align='8')\n"
        "    return lightpeft.make_plan(scores, lightpeft.PruningConfig())\n"
    )
    # Without following torch and the like, which takes a minute.
    config = tmp_path / "mypy.ini"
    config.write_text(
        "[mypy]\nstrict = True\n"
        "[mypy-torch.*,transformers.*,peft.*,safetensors.*]\nfollow_imports = skip\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", config, script, "--no-incremental"]
    output = subprocess.run(
        [*command], capture_output=True, text=True, cwd=tmp_path, env={"MYPYPATH": str(ROOT)}
    ).stdout
    lines = [line for line in output.splitlines() if line.startswith("script.py")]

    assert "lightpeft.core.config.PruningConfig" in lines[0]
    assert "-> lightpeft.core.plan.PruningPlan" in lines[0]
    assert 'incompatible type "str"; expected "int"' in lines[1]
    assert len(lines) == 2


def test_wheel_holds_the_marker_for_types():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    assert (PACKAGE / "py.typed").exists()
    assert settings["tool"]["setuptools"]["package-data"]["lightpeft"] == ["py.typed"]


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'lightpeft' has no attribute 'prun'"):
        lightpeft.prun  # noqa: B018


# Keys of JSON files that are called as modules of some models are.
KEYS = {"deci": {"ffn"}, "reload": {"ffn"}, "make_plan": {"value"}}


def test_only_families_spells_the_names_of_a_models_modules():
    names = {
        name
        for families in FAMILIES.values()
        for family in families
        for names in (family.qkv_proj, family.per_head_extra, family.ffn_in_proj)
        for name in (*names, family.attn_out_proj, family.ffn_out_proj)
    }
    # Letters by themselves (T5's) say nothing about who wrote them.
    names = {name for name in names if len(name) > 1}
    for module in modules():
        if module != "families":
            texts = {n.value for n in ast.walk(parsed(module)) if isinstance(n, ast.Constant)}
            spelt = texts & names - KEYS.get(module, set())
            assert not spelt, f"{module}.py spells {spelt}"


@pytest.mark.parametrize("module", modules())
def test_nothing_can_run_code_from_a_file(module: str):
    used = {node.id for node in ast.walk(parsed(module)) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(parsed(module)) if isinstance(node, ast.Attribute)}
    source = paths()[module].read_text(encoding="utf-8")

    assert not used & {"pickle", "exec", "__import__"}
    assert "torch.load(" not in source
    assert "torch.save(" not in source
