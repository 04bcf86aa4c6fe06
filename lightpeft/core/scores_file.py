"""The layout of a folder of scores, and of its scores.json; read without torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from lightpeft.core.block_shape import Size
from lightpeft.core.errors import ScoresError
from lightpeft.core.names import CONFIG, SCORES, WEIGHTS
from lightpeft.core.reading import check_digests, check_format, parse_as, read_json
from lightpeft.core.shape import ModelShape

SCORES_FORMAT = "lightpeft-scores-6"
_FILES = (WEIGHTS, CONFIG, "curve.csv", SCORES, "scores.safetensors")


class ScoresInFile(BaseModel):
    """What scores.json holds; the other scores are in scores.safetensors."""

    model_config = ConfigDict(extra="forbid")
    format: str
    fingerprint: str
    digest: str
    steps: Size
    modules: dict[str, float]
    shape: ModelShape


_SCORES_FILE = TypeAdapter(ScoresInFile)


def read_scores_file(folder: Path) -> ScoresInFile:
    """Read scores.json, and check the digests of all files of its folder.

    Raises:
        ScoresError: a file is missing, damaged, or of another version of lightpeft.
    """
    path = folder / SCORES
    raw = read_json(path, ScoresError)
    check_format(path, raw, SCORES_FORMAT, ScoresError)
    file = parse_as(_SCORES_FILE, raw, path, ScoresError)
    check_digests(folder, _FILES, ScoresError)
    return file
