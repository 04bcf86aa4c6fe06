"""What a user can do wrong; each error is one line: what, the value, what to do."""


class LightPeftError(Exception):
    """A user's mistake. Stages print it as one line, without a traceback."""


class ConfigError(LightPeftError):
    """params.yaml holds an unknown key, a wrong type, or a value that is not allowed."""


class DataError(LightPeftError):
    """Data can't be read, or does not fit the task."""


class ModelError(LightPeftError):
    """The model can't be found, or its architecture is not supported."""


class ScoresError(LightPeftError):
    """Estimation failed, or its result is not a number, truncated, or of another model."""


class PlanError(LightPeftError):
    """A pruning plan is malformed, can't be made, or belongs to another model."""


class CheckpointError(LightPeftError):
    """A saved adapter is truncated, malformed, or belongs to another model."""
