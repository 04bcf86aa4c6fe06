"""A tokenizer for the models that experiments train from nothing."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

BEGIN, END, PADDING = "<s>", "</s>", "<pad>"


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, *, around: str, lowercase: bool = False
) -> PreTrainedTokenizerBase:
    """A byte-level BPE of these texts.

    Lowercase, a text also begins with a blank if it has none: with neither capitals nor a first
    word that lacks its blank, a word of a name is the same tokens in a description, and little text
    is enough to learn that they are one.

    Args:
        texts: What it is learnt from.
        vocabulary: Its size.
        around: What a text `$A` becomes, such as `$A </s>`.
        lowercase: Whether capitals are lost.
    """
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=lowercase)
    tokenizer.decoder = decoders.ByteLevel()
    special = [PADDING, BEGIN, END] if BEGIN in around else [PADDING, END]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=around,
        pair=around.replace("$A", "$A $B"),
        special_tokens=[(mark, tokenizer.token_to_id(mark)) for mark in special],
    )
    marks = {"bos_token": BEGIN} if BEGIN in around else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PADDING, **marks
    )
