"""The config class of an export in the format deci, which is written beside config.json.

vLLM has no class of its own for the model type, and reads `block_configs` by attribute. Only this
file is run with its option trust_remote_code; llama.cpp reads config.json alone.
"""

from typing import Any

from transformers import LlamaConfig


class Attributes(dict[str, Any]):
    """A dict whose values are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


class DeciLMConfig(LlamaConfig):  # type: ignore[misc]
    """A Llama config with what each layer has."""

    model_type = "nemotron-nas"

    def __init__(self, block_configs: Any = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.block_configs = [
            Attributes({part: Attributes(values) for part, values in block.items()})
            for block in block_configs
        ]
