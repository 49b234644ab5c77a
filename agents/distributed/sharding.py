"""Fully sharded data parallelism (torch's FSDP2): each rank keeps a shard of weights, gradients and moments.

An Accelerate configuration of type FSDP enables it. A rollout needs every weight at every token, and ranks are at
different tokens: so weights are gathered between updates, and an update runs on shards. This saves the memory of
gradients and of Adam's moments, and that of weights and activations of the layers that the configuration names, which
are gathered one after another. FSDP takes long to import, so functions import it only if it is enabled.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from agents.distributed import processes
from agents.policies.token_policy import TokenPolicy


def is_enabled() -> bool:
    """Whether the launcher's configuration is of type FSDP, and there is more than one process."""
    return processes.size() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def shard(policy: TokenPolicy, micro_batches: int = 1) -> None:
    """Leave each rank its shard of the network; every gradient is then the sum over ranks.

    Raises:
        ValueError: the encoders learn, but they are called outside of the network's forward pass; or there are
            micro-batches, of which ranks could have different numbers.
    """
    if not is_enabled():
        return
    if micro_batches > 1:
        raise ValueError(f"micro_batches={micro_batches}: FSDP takes none, have more minibatches or processes")
    if policy.train_encoder:
        raise ValueError("train_encoder=True: encoders cannot be sharded, take a configuration without FSDP")
    processes.broadcast(policy.trainable_parameters())
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    layers = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "").split(",")
    mesh = init_device_mesh(policy.device.type, (processes.size(),))
    modules = list(policy.network.modules())  # the network itself comes first
    for module in [*(m for m in modules if type(m).__name__ in layers), modules[0]]:
        sharded = fully_shard(module, mesh=mesh)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum


def gather_weights(policy: TokenPolicy) -> None:
    """Gather the weights of a policy, for passes outside of an update."""
    if not is_enabled():
        return
    from torch.distributed.fsdp import FSDPModule

    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.unshard()


def full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather sharded tensors; all ranks call it together."""
    if not is_enabled():
        return dict(tensors)
    from torch.distributed.tensor import DTensor

    return {k: v.full_tensor().cpu() if isinstance(v, DTensor) else v for k, v in tensors.items()}


def shard_moments(moments: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """This rank's shards of an optimiser's tensors, named ``index.name``, sharded as its parameters are."""
    shards = dict(moments)
    if not is_enabled():
        return shards
    from torch.distributed.tensor import DTensor, distribute_tensor

    for key, value in moments.items():
        p = parameters[int(key.partition(".")[0])]
        if isinstance(p, DTensor) and value.shape == p.shape:
            shards[key] = distribute_tensor(value.to(p.device), p.device_mesh, p.placements)
    return shards
