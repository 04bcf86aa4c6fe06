"""README and docs/ name what exists: files, headings, modules, settings, tasks; examples run."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.exports import reload_here
from helpers.import_graph import ROOT
from helpers.stage_workspace import make_tokenizer
from helpers.tiny_models import make_tiny_batches, make_tiny_model
from ruamel.yaml import YAML

from lightpeft.exporting import check
from lightpeft.modeling.families import FAMILIES
from pipeline.common.pruning_params import check_params
from pipeline.data.catalog.registry import CATALOG

README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "data/README.md"]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
SETTINGS: dict[str, Any] = YAML(typ="safe").load(ROOT / "params.yaml")


def anchors(path: Path) -> set[str]:
    """Return the anchors that a forge gives the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_leads_somewhere(name: str):
    document = ROOT / name
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text(encoding="utf-8"))

    for path, _, anchor in (link.partition("#") for link in links):
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_the_readme_links_every_document():
    links = re.findall(r"\]\(([^)\s#]+)\)", README.read_text(encoding="utf-8"))

    assert {name for name in NAMES if name.startswith("docs/")} <= set(links)


@pytest.mark.parametrize("name", NAMES)
def test_every_module_that_a_command_runs_exists(name: str):
    modules = re.findall(r"python -m ([\w.]+)", (ROOT / name).read_text(encoding="utf-8"))

    assert [module for module in modules if find_spec(module) is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_that_is_named_exists(name: str):
    text = (ROOT / name).read_text(encoding="utf-8")
    sections = "|".join(key for key, value in SETTINGS.items() if isinstance(value, dict))
    named = re.findall(rf"(?:(?<=`)|(?<=-S )|(?<= ))({sections})\.(\w+)(?=[=:`])", text)

    assert [(section, key) for section, key in named if key not in SETTINGS[section]] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_yaml_block_of_settings_is_valid(name: str):
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    statements = [text for block in blocks for text in re.split(r"\n(?=\w)", block)]

    for text in statements:
        parsed = YAML(typ="safe").load(text.replace(", ...}", "}")) or {}
        check_params({"methods": ["vanilla"]} | parsed, text)


def test_all_named_tasks_are_listed():
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")

    assert [task for task in CATALOG if f"`{task}`" not in text] == []


def test_the_readme_counts_the_architectures():
    assert f"[{len(FAMILIES)} architectures]" in README.read_text(encoding="utf-8")


def test_the_library_example_of_the_readme_runs(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "run_reload", reload_here)
    text = README.read_text(encoding="utf-8").split("## Quick start: library")[1]
    code = text.split("```python\n")[1].split("```")[0]
    trained = []

    exec(
        code,
        {
            "model": make_tiny_model(),
            "base_model": make_tiny_model(),
            "batches": list(make_tiny_batches()),
            "train": trained.append,
            "tokenizer": make_tokenizer(),
        },
    )

    assert {path.name for path in Path("out").iterdir()} >= {"plan.json", "adapter_config.json"}
    assert isinstance(trained[0], torch.nn.Module)
    assert "LABEL_" in capsys.readouterr().out.splitlines()[-1]
