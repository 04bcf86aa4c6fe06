"""Errors that a caller can cause. A message is one line: what is wrong, its value, what to do."""

from enum import StrEnum

MAX_MESSAGE = 300


class Term(StrEnum):
    """What messages call the settings of a caller; a front end replaces it by its own words."""

    LORA_TARGETS = "LoraConfig.target_modules"
    BOTTLENECK_TARGETS = "BottleneckConfig.target_modules"
    USE_HOULSBY = "use houlsby"
    USE_ANOTHER_PLACEMENT = "use another placement"
    LOWER_LR = "lower lr, or load the model in float32"
    IN_LORA_MODULES = "in LoraConfig.modules_to_save or the same ones as then"
    IN_BOTTLENECK_MODULES = "in BottleneckConfig.modules_to_save or the same ones as then"


def escape_unprintable(text: str) -> str:
    """Return a text in which what a terminal would act on is escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class LightPeftError(Exception):
    """Base class of all errors of lightpeft; its message is for the user.

    A name from a file can have any length and any characters: what can't be printed is escaped,
    and the middle of a message of more than 300 characters is left out.

    Example:
        >>> try:
        ...     lightpeft.get_plan(base_model)
        ... except lightpeft.LightPeftError as error:
        ...     print(error)
        the model has no plan; get it from lightpeft.prune or lightpeft.load
    """

    def __init__(self, message: str) -> None:
        text = " ".join(message.split())
        if len(text) > MAX_MESSAGE:
            text = f"{text[: MAX_MESSAGE - 105]} ... {text[-100:]}"
        super().__init__(escape_unprintable(text)[:MAX_MESSAGE])


class ConfigError(LightPeftError):
    """A setting is unknown, of a wrong type, or not allowed."""


class ModelError(LightPeftError):
    """The model can't be loaded, its architecture is not supported, or it is in a wrong state."""


class ScoresError(LightPeftError):
    """Estimation failed, or stored scores are damaged or belong to another model."""


class PlanError(LightPeftError):
    """A pruning plan is malformed, can't be made, or belongs to another model."""


class CheckpointError(LightPeftError):
    """A saved adapter is damaged, or belongs to another model or plan."""
