"""Pixels: what of a file in any mode a model sees."""

from typing import Any

import numpy as np
import pytest
from helpers.images import draw_image, draw_ramp, encode_image_file
from PIL import Image

from pipeline.tasks.image_classification import encode_image
from pipeline.tasks.pixels import inspect, read_pixels


def stored(image: Any, format: str = "PNG", **options: Any) -> dict[str, Any]:
    """An image as a row holds it."""
    return {"bytes": encode_image_file(image, format, **options), "path": None}


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_no_damage_ends_in_a_traceback(format):
    undamaged = encode_image_file(draw_image("dark", 0), format)
    assert inspect({"bytes": undamaged, "path": None})["error"] is None
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(undamaged[: random.integers(len(undamaged))])
        for position in random.integers(max(len(damaged), 1), size=4) if damaged else ():
            damaged[position] = random.integers(256)
        image = {"bytes": bytes(damaged), "path": None}
        assert inspect(image)["error"] or read_pixels(image).mode == "RGB"


def test_bytes_and_paths_are_the_same_image(tmp_path):
    image = draw_image("dark", 0)
    path = tmp_path / "a.png"
    path.write_bytes(encode_image_file(image))
    kept = [encode_image(path.read_bytes()), encode_image(path), encode_image({"path": str(path)})]

    assert len({inspect(stored)["digest"] for stored in kept}) == 1
    for stored in kept:
        np.testing.assert_array_equal(read_pixels(stored), image)
    assert (
        encode_image({"bytes": None, "path": None}) is encode_image(None) is encode_image(3) is None
    )


def test_an_image_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    draw_image("dark", 0, size=(20, 30)).save(tmp_path / "a.jpg", exif=exif)

    assert read_pixels({"bytes": None, "path": str(tmp_path / "a.jpg")}).size == (20, 30)


@pytest.mark.parametrize(
    ("image", "format", "mode"),
    [
        (draw_ramp(65535, np.uint16), "PNG", "I;16"),
        (draw_ramp(65535, np.uint16), "TIFF", "I;16"),
        (draw_ramp(65535, np.uint16), "PPM", "I"),
        (draw_ramp(1, np.float32), "TIFF", "F"),
        (draw_ramp(255, np.uint8), "PNG", "L"),
        (draw_ramp(255, np.uint8).convert("P"), "PNG", "P"),
        (draw_ramp(255, np.uint8).convert("LA"), "PNG", "LA"),
        (draw_ramp(255, np.uint8).convert("RGB").convert("CMYK"), "TIFF", "CMYK"),
    ],
)
def test_gray_values_of_any_depth_are_scaled_to_eight_bits(image, format, mode):
    image = stored(image, format)

    assert inspect(image) == inspect(image) | {"mode": mode, "error": None}
    values = np.asarray(read_pixels(image)).reshape(-1, 3)
    np.testing.assert_allclose(values, np.arange(256)[:, None].repeat(3, 1), atol=1)


def test_deep_images_are_turned_upright_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.zeros((20, 30), np.uint16))

    assert read_pixels(stored(image, exif=exif)).size == (20, 30)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(mode):
    black = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    options = {} if mode != "P" else {"transparency": 0}
    image = stored(
        black.convert("L").convert("P") if mode == "P" else black.convert(mode), **options
    )

    assert np.asarray(read_pixels(image)).min() == 255
    half = stored(Image.new("RGBA", (1, 1), (255, 0, 0, 128)))
    assert read_pixels(half).getpixel((0, 0)) == (255, 127, 127)
    assert np.unique(read_pixels(stored(Image.new("1", (4, 4), 1)))).tolist() == [255]
