"""The layout of plan.json: the types of its values."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from lightpeft.core.kept_units import UnitsInFile
from lightpeft.core.names import LORA
from lightpeft.core.shape import ModelShape

# Units and ranks in a plan.json, so that reading it takes bounded memory. A model of 405 billion
# parameters has 7 million.
MAX_UNITS = 2**24


class PlanInFile(BaseModel):
    """What plan.json holds; see `PruningPlan`."""

    model_config = ConfigDict(extra="forbid")
    format: str
    digest: str
    fingerprint: str
    scores: str
    settings: dict[str, Any]
    notes: tuple[str, ...]
    layers: dict[str, UnitsInFile]
    heads: dict[str, UnitsInFile]
    neurons: dict[str, UnitsInFile]
    ranks: dict[str, UnitsInFile]
    shape: ModelShape
    peft_type: str = LORA


PLAN_FILE = TypeAdapter(PlanInFile)
