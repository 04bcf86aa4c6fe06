import pytest
import torch
import transformers
from helpers.architectures import ARCHITECTURES
from helpers.tiny_models import lora
from peft import get_peft_model
from torch import nn

from lightpeft.core.errors import ModelError
from lightpeft.profiling.random_batches import make_random_batch, max_sequence_length

_TABLES = ("position_embeddings", "embed_positions", "wpe")


def _usable_positions(model):
    """Rows of each table of positions, less those that no token of a row looks up."""
    for path, module in model.named_modules():
        if path.endswith(_TABLES) and isinstance(module, nn.Embedding):
            padding, offset = module.padding_idx, getattr(module, "offset", 0)
            yield module.num_embeddings - (offset if padding is None else padding + 1)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "whisper"])
def test_the_longest_row_is_what_the_tables_of_positions_hold(name):
    architecture = ARCHITECTURES[name]
    config = architecture.config()
    with torch.device("meta"):
        model = getattr(transformers, architecture.model)._from_config(config)

    assert set(_usable_positions(model)) <= {max_sequence_length(config)}


def test_an_encoder_decoder_needs_a_position_for_the_token_that_it_decodes():
    model = transformers.BartForConditionalGeneration(ARCHITECTURES["bart"].config())
    model = get_peft_model(model, lora(task_type="SEQ_2_SEQ_LM", target_modules=["q_proj"]))

    assert make_random_batch(model, batch_size=2, length=31)["labels"].shape == (2, 31)
    with pytest.raises(ModelError, match="length must be at most 31"):
        make_random_batch(model, batch_size=2, length=32)
