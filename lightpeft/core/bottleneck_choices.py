"""Where bottleneck adapters are placed, and their non-linearities."""

from typing import Literal

Placement = Literal["houlsby", "pfeiffer", "parallel"]
# Names in transformers, of functions without weights of their own.
NonLinearity = Literal["relu", "gelu", "gelu_new", "silu", "tanh", "sigmoid", "leaky_relu"]
