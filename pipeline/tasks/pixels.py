"""Decode image files: whatever their pixels are, they become upright RGB of 8 bits."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pipeline.common.errors import DataError

_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip
_SAVE = "(save it in 8 bits)"


class _UnsupportedPixels(Exception):
    """Why an image that can be read has no RGB values."""


def inspect(image: dict[str, Any]) -> dict[str, str | None]:
    """Decode an image once.

    Returns:
        `digest`, a hash of its file; pillow's `mode` of its pixels; and `error`, why it can't be
        used, or None.
    """
    mode = None
    try:
        data = image["bytes"] or Path(image["path"]).read_bytes()
        with _open_image(io.BytesIO(data)) as file:
            mode = file.mode
            file.draft("RGB", (1, 1))  # decodes JPEG faster; the whole file is read anyway
            to_rgb(file)
    except _UnsupportedPixels as error:
        return {"digest": None, "mode": mode, "error": str(error)}
    except _DAMAGE:
        return {"digest": None, "mode": mode, "error": "damaged or missing image"}
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return {"digest": digest, "mode": mode, "error": None}


def read_pixels(image: dict[str, Any]) -> Image.Image:
    """Return the image upright, in RGB.

    Raises:
        DataError: it was readable at the stage `prepare`, and is not now.
    """
    try:
        with _open_image(io.BytesIO(image["bytes"]) if image["bytes"] else image["path"]) as file:
            return to_rgb(file)
    except (*_DAMAGE, _UnsupportedPixels) as error:
        raise DataError(
            f"{image['path']} can't be read any more ({error}); run the stage prepare again"
        ) from error


def to_rgb(file: Image.Image) -> Image.Image:
    """Return an opened image upright, in RGB of 8 bits, transparent pixels over white.

    Gray values are scaled, which pillow would cut at 255: of 16 bits, 65,535 is white, of floats 1.
    """
    image = ImageOps.exif_transpose(file)
    # Of 32 bits only these formats say what white is: they are 16-bit files.
    if image.mode.startswith("I;16") or (image.mode == "I" and file.format in ("PNG", "PPM")):
        return _convert_gray(np.asarray(image) / 65535)
    if image.mode == "F":
        values = np.asarray(image)
        if not ((values >= 0) & (values <= 1)).all():
            raise _UnsupportedPixels(f"floats beyond 0 to 1 as pixels {_SAVE}")
        return _convert_gray(values)
    if image.mode in ("I", "LAB"):
        raise _UnsupportedPixels(f"pixels of mode {image.mode} {_SAVE}")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _convert_gray(values: Any) -> Image.Image:
    """Return gray values from 0 to 1 as RGB."""
    return Image.fromarray(np.rint(values * 255).astype(np.uint8)).convert("RGB")


@contextmanager
def _open_image(source: Any) -> Iterator[Image.Image]:
    """Open an image, without pillow's warnings about its tags."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(source) as file:
            yield file
