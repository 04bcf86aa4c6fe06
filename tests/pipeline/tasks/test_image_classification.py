"""Images: what is stored of them, which are bad, and the stages on a tiny ViT."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, load_from_disk
from helpers.images import draw_image, draw_ramp, encode_image_file
from helpers.run_stages import read, run_stages, write_small_params
from helpers.tiny_models import make_tiny_config
from PIL import Image
from transformers import AutoConfig, AutoModel, ViTImageProcessorPil

from pipeline.common.data_card import DataCard
from pipeline.common.errors import ConfigError, DataError
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import load_params
from pipeline.stages import prepare
from pipeline.tasks.model_loading import load_processor
from pipeline.tasks.pixels import read_pixels
from pipeline.tasks.registry import make_task

SIDE = 16
DATA = {"train": "images"}
LENGTH = {"benchmark": {"batch_sizes": [2], "length": 17}}


def write(folder: Path, count: int = 40) -> None:
    """Images of both classes, in several formats and modes."""
    modes = [("png", "RGB"), ("jpg", "RGB"), ("png", "L"), ("png", "RGBA"), ("gif", "P")]
    for label in ("dark", "light"):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            ending, mode = modes[number % len(modes)]
            draw_image(label, number, mode=mode).save(folder / label / f"{number:02}.{ending}")


@pytest.fixture
def space(cwd: Path) -> Path:
    """A tiny ViT, and a folder of images with a subfolder per class."""
    torch.manual_seed(0)
    sizes = {"image_size": SIDE, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "intermediate_size": 64}
    AutoModel.from_config(AutoConfig.for_model("vit", **sizes)).save_pretrained(cwd / "base")
    side = {"height": SIDE, "width": SIDE}
    ViTImageProcessorPil(size=side).save_pretrained(cwd / "base")
    write(cwd / "images")
    write_small_params(cwd, data=DATA, **LENGTH)
    return cwd


def test_a_preview_of_few_rows_does_not_judge_the_classes(space, capsys):
    config = AutoConfig.from_pretrained("base")
    config.architectures = ["ViTForImageClassification"]  # a head for LABEL_0 and LABEL_1
    config.save_pretrained("base")
    prepare.main(Paths(), preview=1)

    assert capsys.readouterr().out.splitlines() == [
        "[prepare] columns: image, label",
        "[prepare] row 1 as read: image='images/dark/00.png', label='dark'",
        "[prepare] row 1 for the model, 17 tokens: image -> dark",
    ]


def test_classes_are_learnt_and_measured_through_all_stages(space, monkeypatch):
    card, evaluation, table = run_stages(monkeypatch)

    assert (card["kind"], card["labels"], card["metric"]) == (
        "image-classification",
        ["dark", "light"],
        "accuracy",
    )
    assert card["splits"]["train"] == {
        "rows": 64, "mean_tokens": 17.0, "p50_tokens": 17, "p95_tokens": 17, "max_tokens": 17,
        "truncated": 0, "tokens_lost": 0, "most_lost": 0, "labels": {"dark": 32, "light": 32},
    }  # fmt: skip
    assert sum(card["image_modes"].values()) == 64
    assert {*card["image_modes"]} == {"RGB", "L", "RGBA", "P"}
    assert card["first_row"] == {"target": "dark"}
    assert card["columns"] == {"image": ["image"], "label": ["label"]}
    assert evaluation["rows"] == len(table) == 8
    assert evaluation["accuracy"] == (table.label == table.prediction).mean() > 0.8
    assert np.sum(evaluation["confusion"]) == 8
    assert read("artifacts/models/light/adapter_config.json")["modules_to_save"] == ["classifier"]


def test_prepared_rows_hold_paths_and_no_pixels(space):
    prepare.main(Paths())
    rows = load_from_disk("data/prepared/train")

    assert set(rows.column_names) == {
        "image",
        "label",
        "digest",
        "mode",
        "length",
        "num_truncated",
        "text_hash",
    }
    assert all(row["image"]["bytes"] is None for row in rows)
    assert all(Path(row["image"]["path"]).parts[0] == "images" for row in rows)
    assert (Path("data/prepared") / "tokenizer" / "preprocessor_config.json").is_file()


def test_a_batch_is_what_the_models_own_processor_makes(space):
    prepare.main(Paths())
    rows, task = (
        load_from_disk("data/prepared/test"),
        make_task(DataCard.read(Paths().prepared)),
    )
    processor = load_processor(load_params().model, task)

    batch = task.make_collator(processor)([rows[number] for number in range(3)])

    files = [Path(image["path"]).read_bytes() for image in rows["image"][:3]]
    images = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    stock = processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], stock)
    assert stock.shape == (3, 3, SIDE, SIDE)
    assert batch["labels"].tolist() == rows["label"][:3]


def test_damaged_files_are_counted_and_named(space):
    good = (space / "images/dark/01.jpg").read_bytes()
    (space / "images/dark/01.jpg").write_bytes(good[: len(good) // 2])
    (space / "images/dark/notes.txt").write_text("not an image")
    (space / "images/light/00.png").write_bytes(b"")
    write_small_params(space, data=DATA | {"max_bad_rows": 0.1}, **LENGTH)
    prepare.main(Paths())

    reason, first = "train: damaged or missing image", str(Path("images/dark/01.jpg"))
    assert read("data/prepared/card.json")["dropped"] == {
        reason: {"rows": 3, "first": 2, "name": first}
    }

    write_small_params(space, data=DATA, **LENGTH)
    with pytest.raises(DataError, match=r"3 x damaged .*\(first: row 2, images/dark/01\.jpg\)"):
        prepare.main(Paths())


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (draw_ramp(2**20, np.int32), r"pixels of mode I (save it in 8 bits)"),
        (draw_ramp(255, np.float32), r"floats beyond 0 to 1 as pixels (save it in 8 bits)"),
        (draw_ramp(np.nan, np.float32), r"floats beyond 0 to 1 as pixels (save it in 8 bits)"),
        (Image.new("LAB", (4, 4)), r"pixels of mode LAB (save it in 8 bits)"),
    ],
)
def test_pixels_without_a_known_white_make_a_row_bad(space, image, error):
    image.save("images/dark/00.tiff")

    with pytest.raises(DataError, match=rf"1 x {re.escape(error)} \(first: row 2, images/dark/00"):
        prepare.main(Paths())


def test_a_file_that_went_away_since_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png can't be read any more.*prepare again"):
        read_pixels({"bytes": None, "path": "gone.png"})


def test_copies_of_train_images_are_told_by_their_content(space):
    (space / "test").mkdir()
    for label in ("dark", "light"):
        (space / "test" / label).mkdir()
        draw_image(label, 1000).save(space / "test" / label / "new.png")
        copied = (space / "images" / label / "00.png").read_bytes()
        (space / "test" / label / "renamed.png").write_bytes(copied)
    write_small_params(space, data=DATA | {"test": "test", "validation": "images"}, **LENGTH)
    prepare.main(Paths())

    assert read("data/prepared/card.json")["repeats_of_train"] == {"validation": 80, "test": 2}


def test_rows_with_bytes_need_no_folder(space):
    labels = ["dark", "light"] * 15
    rows = [
        {"image": {"bytes": encode_image_file(draw_image(x, i)), "path": None}}
        for i, x in enumerate(labels)
    ]
    Dataset.from_list(rows).add_column("label", labels).to_parquet("rows.parquet")
    write_small_params(space, data={"train": "rows.parquet"}, **LENGTH)
    prepare.main(Paths())

    rows = load_from_disk("data/prepared/train")
    assert all(row["image"]["path"] is None for row in rows)
    assert np.asarray(read_pixels(rows[0]["image"])).shape == (20, 24, 3)


def test_what_does_not_fit_is_one_line(space):
    write_small_params(space, data=DATA)
    with pytest.raises(
        ConfigError, match=r"benchmark\.length must be 17 for model\.name base, because"
    ):
        prepare.main(Paths())

    write_small_params(space, data=DATA | {"text": ["image", "label"]}, **LENGTH)
    with pytest.raises(ConfigError, match=r"data\.text must be the column of the images, got"):
        prepare.main(Paths())

    make_tiny_config("bert").save_pretrained(space / "base")
    write_small_params(space, data=DATA, **LENGTH)
    with pytest.raises(ConfigError, match="model type 'bert' reads no images in square patches"):
        prepare.main(Paths())


def test_decimals_are_no_classes_of_images(space):
    for number, name in enumerate(("dark", "light")):
        (space / "images" / name).rename(space / "images" / f"0.{number}")

    with pytest.raises(DataError, match="labels of images must be classes, train has decimals"):
        prepare.main(Paths())
