"""Small images, and their files."""

import io
from typing import Any

import numpy as np
from PIL import Image


def draw_image(
    label: str, seed: int, *, mode: str = "RGB", size: tuple[int, int] = (20, 24)
) -> Any:
    """A noisy image, dark or light."""
    noise = np.random.default_rng(seed).integers(0, 100, (*size, 3), np.uint8)
    return Image.fromarray(noise + (150 if label == "light" else 0)).convert(mode)


def encode_image_file(image: Any, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def draw_ramp(white: float, dtype: Any) -> Any:
    """Gray values from 0 to white."""
    return Image.fromarray(np.linspace(0, white, 256).reshape(16, 16).astype(dtype))
