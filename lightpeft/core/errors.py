"""Errors that a caller can cause. A message is one line: what is wrong, its value, what to do."""


class LightPeftError(Exception):
    """Base class of all errors of lightpeft; its message is for the user.

    Example:
        >>> try:
        ...     lightpeft.get_plan(base_model)
        ... except lightpeft.LightPeftError as error:
        ...     print(error)
        the model has no plan; get it from lightpeft.prune or lightpeft.load
    """


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
