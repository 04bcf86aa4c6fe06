"""What can be pruned of a model: by the names of its type, or by proved structure."""

from __future__ import annotations

from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from lightpeft.core.errors import ModelError
from lightpeft.core.shape import ModelShape
from lightpeft.modeling.families import find_families
from lightpeft.modeling.proof import prove_reading
from lightpeft.modeling.shape_reading import read_shape


def inspect_model(model: PreTrainedModel) -> ModelShape:
    """Read from a model's weights what can be pruned, blocks in execution order.

    A model type that is not registered is matched by structure, and a small model of its class
    has to prove that pruned equals masked: seconds, once per class and version.

    Args:
        model: a plain transformers model: not wrapped by peft, not pruned before.

    Raises:
        ModelError: no block has the expected linears, a block holds something that its family does
            not account for (names it), or the proof failed.

    Example:
        >>> from transformers import ViTConfig, ViTModel
        >>> sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
        >>> shape = lightpeft.inspect_model(ViTModel(ViTConfig(num_hidden_layers=1, **sizes)))
        >>> shape
        ModelShape(vit: 1 attention block with 4 heads, 1 feed-forward block with 64 neurons)
        >>> shape.blocks[1].output_projection
        'layers.0.mlp.fc2'

    Example:
        >>> shape = lightpeft.inspect_model(base_model)
        >>> shape.heads
        {'bert.encoder.layer.0.attention': 4, 'bert.encoder.layer.1.attention': 4}
    """
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            raise ModelError(
                f"{name} is a PEFT module; pass the plain model, not one wrapped by peft"
            )
    families = find_families(model.config.model_type)
    if not families:
        return prove_reading(model).read(model)
    return read_shape(model, families)
