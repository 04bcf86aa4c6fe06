"""What keeps estimate and finetune from training, told before either loads a model."""

from __future__ import annotations

from importlib.util import find_spec

from pipeline.common.errors import ConfigError
from pipeline.common.pruning_params import Params
from pipeline.common.ranks import PROCESSES, SHARD, is_base_sharded, split_batch_size


def check_training(params: Params, processes: int) -> None:
    """Check what training needs of this machine, and what it needs to run in several processes.

    The estimation comes first and may take long, so it checks what only fine-tuning needs, too.

    Args:
        params: all settings.
        processes: the number of processes that run a stage together.

    Raises:
        ConfigError: an optimizer is not installed, a batch can't be divided, the base is to be
            shared by one process, or a setting needs one.
    """
    if params.finetune.optimizer == "adamw_8bit" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "finetune.optimizer: adamw_8bit needs bitsandbytes, which is not installed: "
            "pip install bitsandbytes"
        )
    split_batch_size("estimate.batch_size", params.estimate.batch_size, processes)
    split_batch_size("finetune.batch_size", params.finetune.batch_size, processes)
    if is_base_sharded() and processes == 1:
        raise ConfigError(f"{SHARD}=1 needs several processes; set {PROCESSES} too")
    if params.finetune.cache_frozen and processes > 1:
        raise ConfigError(
            f"finetune.cache_frozen must be false with {processes} processes, got true"
        )
