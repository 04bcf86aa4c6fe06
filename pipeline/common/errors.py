"""What a user of the pipeline can do wrong; each error is one line: what, the value, what to do."""


class PipelineError(Exception):
    """A user's mistake, or trouble outside the program. It is printed without a traceback."""


class ConfigError(PipelineError):
    """A setting is unknown, of a wrong type, not allowed, or does not fit the model or the data."""


class DataError(PipelineError):
    """Data can't be read, or does not fit the task."""


class TrainingError(PipelineError):
    """A training can't start, or its loss is not a number."""
