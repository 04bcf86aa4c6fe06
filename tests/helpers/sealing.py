"""Make the digests of an edited folder fit again, so that tests reach the checks behind them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from lightpeft.core.names import DIGESTS
from lightpeft.core.serialization import write_digests


def seal_plan(raw: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a plan with the digest that belongs to it."""
    content = {name: value for name, value in raw.items() if name != "digest"}
    text = json.dumps(content, sort_keys=True)
    return raw | {"digest": hashlib.sha256(text.encode()).hexdigest()[:16]}


def seal(folder: Path) -> None:
    """Write digests of the files as they are now."""
    (folder / DIGESTS).unlink(missing_ok=True)
    write_digests(folder)


def edit_plan(folder: Path, raw: dict[str, Any]) -> None:
    """Write a plan into a saved folder whose other files then belong to it."""
    sealed, weights = seal_plan(raw), folder / "adapter_model.safetensors"
    (folder / "plan.json").write_text(json.dumps(sealed))
    save_file(load_file(weights), weights, {"plan": sealed["digest"]})
    seal(folder)
