import pytest
import transformers
from helpers.architectures import ARCHITECTURES
from helpers.tiny_models import make_lora
from peft import get_peft_model

from lightpeft.core.errors import ModelError
from lightpeft.profiling.random_batches import make_random_batch


@pytest.mark.parametrize(
    ("name", "task"), [("gemma3", "CausalLM"), ("bart", "Seq2SeqLM")], ids=["with images", "bart"]
)
def test_a_model_that_decodes_needs_a_position_for_the_next_token(name, task):
    model = getattr(transformers, f"AutoModelFor{task}").from_config(ARCHITECTURES[name].config())
    peft_task = {"CausalLM": "CAUSAL_LM", "Seq2SeqLM": "SEQ_2_SEQ_LM"}[task]
    model = get_peft_model(model, make_lora(task_type=peft_task, target_modules=["q_proj"]))
    batch = make_random_batch(model, batch_size=2, length=31)

    assert batch["input_ids"].shape == batch["labels"].shape == (2, 31)
    assert model(**batch).loss.isfinite()
    with pytest.raises(ModelError, match="length must be at most 31"):
        make_random_batch(model, batch_size=2, length=32)
