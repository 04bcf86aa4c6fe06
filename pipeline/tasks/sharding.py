"""`LIGHTPEFT_SHARD=1`: a base that is too large for one GPU, shared among the processes."""

from __future__ import annotations

from peft import PeftModel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from pipeline.common.console import find_device
from pipeline.common.ranks import count_processes


def shard_base(model: PeftModel | PreTrainedModel) -> None:
    """Leave each process a part of the frozen weights, which are gathered layer by layer.

    FSDP2 for what is frozen, while what is trained stays whole in each process, where its gradients
    are averaged. So optimizer, checkpoints and saving are those of any training. Not FSDP2 of the
    Trainer: it shards PEFT modules too, and on a CPU, where this is tested, accelerate replaces it
    by DistributedDataParallel.

    Args:
        model: on the CPU, with its PEFT modules; changed in place. Its part of the frozen weights
            moves to the device, and so does what is trained.
    """
    device = find_device()
    mesh = init_device_mesh(device.type, (count_processes(),))
    whole = {
        weight
        for name, weight in model.named_parameters()
        if weight.requires_grad or "original_module" in name  # peft's untrained copy of a head
    }
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    layers = set(base._no_split_modules or ())
    for module in [*base.modules()][1:]:
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh, ignored_params=whole)
    # Not gathered between forward and backward passes either: a process that saves reads the state,
    # which gives back what is gathered, and then the processes would not gather the same again.
    fully_shard(base, mesh=mesh, ignored_params=whole, reshard_after_forward=True)
    model.to(device)
    sharded = [name for name, weight in model.named_parameters() if isinstance(weight, DTensor)]
    ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(model, sharded)  # type: ignore[no-untyped-call]
