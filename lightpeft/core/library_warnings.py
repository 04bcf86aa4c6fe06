"""Warnings of other libraries that no user of lightpeft can do anything about."""

from __future__ import annotations

import warnings


def ignore_peft_deprecation() -> None:
    """Hide that peft 0.21 reads an attribute that transformers 5.23 deprecates.

    Remove this when peft no longer does.
    """
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
