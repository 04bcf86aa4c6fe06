"""The package's face and its inner order."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lightpeft
from lightpeft.modeling.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lightpeft"
# A folder may import those before it.
ORDER = ("core", "modeling", "planning", "pruning", "estimation", "profiling", "benchmark")


def parsed(module: str) -> ast.Module:
    return ast.parse(paths()[module].read_text(encoding="utf-8"))


def imported(module: str) -> set[str]:
    """Modules of the package that a module imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    known = {name: module for module, name in dotted().items()}
    return {known[name] for name in found if name in known}


def paths() -> dict[str, Path]:
    return {p.stem: p for p in PACKAGE.rglob("*.py") if p.stem not in ("__init__", "__main__")}


def dotted() -> dict[str, str]:
    return {
        name: ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for name, path in paths().items()
    }


def modules() -> list[str]:
    return sorted(paths())


@pytest.mark.parametrize("name", lightpeft.__all__)
def test_public_name_resolves_and_is_documented(name: str):
    assert getattr(lightpeft, name).__doc__


def test_public_names_are_few_and_listed():
    assert dir(lightpeft) == sorted(lightpeft.__all__)
    assert len(lightpeft.__all__) == len(set(lightpeft.__all__)) <= 14


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'lightpeft' has no attribute 'prun'"):
        lightpeft.prun  # noqa: B018


def test_importing_the_package_alone_is_light():
    program = (
        "import sys, lightpeft; "
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules), 'heavy'"
    )

    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.mark.parametrize("module", modules())
def test_imports_point_down_only(module: str):
    def folder(name: str) -> str:
        return dotted()[name].split(".")[1]

    allowed = ORDER[: ORDER.index(folder(module)) + 1] if folder(module) in ORDER else ORDER
    inside = {folder(name) for name in imported(module)} & set(ORDER)

    assert inside <= set(allowed)


def test_no_modules_import_each_other_in_a_circle():
    waiting = {module: imported(module) for module in modules()}
    while free := [module for module, needs in waiting.items() if not needs]:
        for module in free:
            del waiting[module]
        for needs in waiting.values():
            needs.difference_update(free)

    assert not waiting


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
            assert not texts & names, f"{module}.py spells {texts & names}"


@pytest.mark.parametrize("module", modules())
def test_nothing_can_run_code_from_a_file(module: str):
    used = {node.id for node in ast.walk(parsed(module)) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(parsed(module)) if isinstance(node, ast.Attribute)}
    source = paths()[module].read_text(encoding="utf-8")

    assert not used & {"pickle", "exec", "__import__"}
    assert "torch.load(" not in source
    assert "torch.save(" not in source
