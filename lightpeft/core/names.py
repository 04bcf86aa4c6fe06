"""Names in the folders that lightpeft and peft write."""

from __future__ import annotations

import re

# Of peft.
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
LORA_KEY = re.compile(rf"{re.escape(PEFT_PREFIX)}(?P<linear>.+)\.lora_(?P<factor>[AB])\.weight")

# Types of PEFT methods, as adapter_config.json has them; bottleneck adapters are lightpeft's own.
LORA = "LORA"
BOTTLENECK = "LIGHTPEFT_BOTTLENECK"
DORA = "DORA"  # LoRA with `use_dora`, whose modules have one weight more

# In place of WEIGHTS, in a name that peft does not read.
COMPRESSED = "adapter_compressed.safetensors"
COMPRESSED_PREFIX = "compressed."

PLAN = "plan.json"
SCORES = "scores.json"
DIGESTS = "SHA256SUMS"

# Metadata of safetensors.
PLAN_ENTRY = "plan"
EXPANDED_ENTRY = "expanded_from"
