"""A tokenizer for the models that experiments train from scratch."""

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
    """Train a byte-level BPE tokenizer.

    With `lowercase`, a space is also put in front of each text, so that a word has the same tokens
    in a name and in a description, wherever it stands: this is learned from less text.

    Args:
        texts: training texts.
        vocabulary: size of the vocabulary.
        around: template of a text `$A`, such as `$A </s>`.
        lowercase: whether to convert texts to lower case.
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
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in special],
    )
    special_names = {"bos_token": BEGIN} if BEGIN in around else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PADDING, **special_names
    )
