from itertools import islice

import pytest
import torch
from datasets import Dataset
from helpers.stage_workspace import draw_rows, make_card, make_tokenizer

from pipeline.tasks.batching import (
    build_dataloader,
    choose_lengths,
    count_read_tokens,
    shuffle_batches,
    sort_batches_by_length,
)
from pipeline.tasks.registry import make_task
from pipeline.tasks.text_generation import Seq2SeqLM

KIND = make_task(make_card())
LENGTHS = [length % 13 + 1 for length in range(200)]


def first(count: int, *, lengths=LENGTHS, seed=0, grouped=False, batch_size=8) -> list[list[int]]:
    drawn = shuffle_batches(lengths, batch_size=batch_size, seed=seed, grouped=grouped)
    return list(islice(drawn, count))


def padded(groups: list[list[int]]) -> int:
    return sum(len(group) * max(LENGTHS[row] for row in group) for group in groups)


def test_a_pass_takes_every_row_once_and_every_batch_is_full():
    for grouped in (False, True):
        drawn = first(50, grouped=grouped)

        assert {len(group) for group in drawn} == {8}
        assert sorted(row for group in drawn for row in group) == sorted([*range(200)] * 2)


def test_the_order_is_the_seed_s_alone_and_a_shorter_training_sees_its_beginning():
    torch.manual_seed(1)
    longer = first(60, grouped=True)
    torch.manual_seed(2)

    assert first(30, grouped=True) == longer[:30]
    assert first(30, grouped=True, seed=1) != longer[:30]


def test_grouping_saves_padding_and_keeps_lengths_in_no_order():
    grouped = first(50, grouped=True)

    assert padded(grouped) < 0.7 * padded(first(50))
    longest = [max(LENGTHS[row] for row in group) for group in grouped]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_less_data_than_a_batch_is_repeated():
    assert sorted(first(1, lengths=[1, 2, 3], batch_size=6)[0]) == [0, 0, 1, 1, 2, 2]


def test_evaluation_takes_every_row_once_longest_first():
    groups = sort_batches_by_length(LENGTHS, batch_size=32)

    assert sorted(row for group in groups for row in group) == [*range(200)]
    assert [LENGTHS[row] for group in groups for row in group] == sorted(LENGTHS, reverse=True)


def test_a_batch_is_padded_to_its_own_longest_row():
    data, words = draw_rows(20, seed=0), make_tokenizer()
    batch = next(iter(build_dataloader(data, KIND, words, [[3, 4]])))
    lengths = [len(data[row]["input_ids"]) for row in (3, 4)]

    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["input_ids"].shape == (2, max(lengths))
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    assert batch["labels"].tolist() == data["label"][3:5]


def test_regression_labels_stay_decimals():
    task = make_task(make_card("text-regression"))
    batch = next(
        iter(
            build_dataloader(
                draw_rows(4, seed=0, task_name="text-regression"), task, make_tokenizer(), [[0, 1]]
            )
        )
    )

    assert batch["labels"].dtype == torch.float32


def test_drawing_batches_leaves_the_training_s_random_state_alone():
    state = torch.get_rng_state()
    order = shuffle_batches(LENGTHS[:20], batch_size=4, seed=0, grouped=True)
    drawn = build_dataloader(draw_rows(20, seed=0), KIND, make_tokenizer(), order)
    seen = [batch["input_ids"].shape[0] for batch in islice(drawn, 12)]

    assert seen == [4] * 12
    assert torch.equal(torch.get_rng_state(), state)


def test_lengths_to_pad_to_are_few_and_hold_every_batch():
    lengths = [*range(1, 102)]
    chosen = choose_lengths(lengths, [[row, row // 2] for row in range(101)])

    assert chosen == [32, 56, 80, 101]
    assert choose_lengths([7, 7], [[0], [1]]) == [7]
    assert choose_lengths([20, 30], [[0, 1]]) == [30]


@pytest.mark.parametrize(("lengths", "expected"), [([16], 16), ([2, 12, 40], 12)])
def test_a_batch_is_padded_to_the_next_of_the_lengths(lengths, expected):
    data, words = draw_rows(20, seed=0), make_tokenizer()
    rows = [[row for row in range(20) if 9 < len(data[row]["input_ids"]) < 12][:2]]
    (plain,), (batch,) = (
        list(build_dataloader(data, KIND, words, rows, lengths=x)) for x in ((), lengths)
    )

    own = plain["input_ids"].shape[1]
    assert {len(batch[name][0]) for name in ("input_ids", "attention_mask")} == {expected}
    assert torch.equal(batch["input_ids"][:, :own], plain["input_ids"])
    assert batch["input_ids"][:, own:].eq(words.pad_token_id).all()
    assert not batch["attention_mask"][:, own:].any()
    assert torch.equal(batch["labels"], plain["labels"])


@pytest.mark.parametrize("fixed_length", [False, True])
def test_the_parts_of_two_processes_are_the_batch_padded_as_a_whole(monkeypatch, fixed_length):
    data, words = draw_rows(20, seed=0), make_tokenizer()
    if fixed_length:  # as of images, each process then makes tensors of its own rows only
        monkeypatch.setattr(type(KIND), "fixed_length", True)
        data = data.filter(lambda row: row["length"] == max(data["length"]))
    (whole,) = build_dataloader(data, KIND, words, [[*range(4)]])
    parts = []
    for rank in ("0", "1"):
        for name, value in {"LOCAL_RANK": rank, "RANK": rank, "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        parts += build_dataloader(data, KIND, words, [[*range(4)]], split=True)

    for name, rows in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), rows)


def test_what_an_encoder_reads_is_counted_without_the_completion():
    rows = Dataset.from_dict({"input_ids": [[5] * 4, [5] * 6], "length": [9, 8]})

    assert count_read_tokens(rows, Seq2SeqLM) == [4, 6]
    assert count_read_tokens(rows, KIND) == [9, 8]
