"""The rows that experiments.rows measures the stage `prepare` with."""

import csv
import os

import psutil

from experiments.rows import SETTINGS, measure_private_bytes, write_rows
from experiments.settings import write_params
from pipeline.common.pruning_params import load_params


def test_as_many_rows_as_asked_for_are_written_the_same_every_time(tmp_path):
    for name in ("a.csv", "b.csv"):
        write_rows(tmp_path / name, 50)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert len(rows) == 50
    assert {row["label"] for row in rows} == {"0", "1", "2"}
    assert all(3 <= len(row["text"].split()) <= 12 for row in rows)


def test_the_settings_name_the_rows(tmp_path):
    write_params(SETTINGS, tmp_path)
    data = load_params(tmp_path / "params.yaml").data

    assert (data.task, data.train) == ("files", "data/local/rows.csv")


def test_memory_is_that_of_a_process_and_nothing_once_it_has_ended():
    own = measure_private_bytes(psutil.Process(os.getpid()))[0]  # others are of its children
    assert own > 2**20

    gone = psutil.Popen(["true"])
    gone.wait()
    assert measure_private_bytes(gone) == []
