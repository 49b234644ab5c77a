"""Fully sharded data parallelism (torch's FSDP2): each process keeps a part of weights, gradients and moments.

Asked for by an Accelerate configuration of type FSDP. A rollout needs every weight at every token, and processes are at
different tokens: so between updates the weights are gathered, and an update runs on parts. What is saved there is what
grows with training: gradients and Adam's moments always, and weights and activations of the layers that the
configuration names, which are gathered one after another. FSDP takes long to load, so functions import it where it is
asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from agents.distributed import processes
from agents.policies.token_policy import TokenPolicy


def asked() -> bool:
    """Whether the launcher's configuration is of type FSDP, and there is more than one process."""
    return processes.size() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def shard(policy: TokenPolicy, micro_batches: int = 1) -> None:
    """Leave each process its part of the network; every gradient is then the sum over processes.

    Raises:
        ValueError: the encoders learn, which are called outside of the network's pass; or steps are taken in parts, of
            which processes could have different numbers.
    """
    if not asked():
        return
    if micro_batches > 1:
        raise ValueError(f"micro_batches={micro_batches}: FSDP takes steps whole, have more minibatches or processes")
    if policy.train_encoder:
        raise ValueError("train_encoder=True: encoders cannot be sharded, take a configuration without FSDP")
    processes.same(policy.trainable_parameters())
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    layers = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "").split(",")
    mesh = init_device_mesh(policy.device.type, (processes.size(),))
    for module in [*(m for m in policy.network.modules() if type(m).__name__ in layers), policy.network]:
        part = fully_shard(module, mesh=mesh)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum


def whole(network: nn.Module) -> None:
    """Gather the weights, for passes outside of an update."""
    if not asked():
        return
    from torch.distributed.fsdp import FSDPModule

    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.unshard()


def full(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as one process would have them; all processes call it together."""
    if not asked():
        return dict(tensors)
    from torch.distributed.tensor import DTensor

    return {k: v.full_tensor().cpu() if isinstance(v, DTensor) else v for k, v in tensors.items()}


def parts(moments: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """This process's parts of an optimiser's tensors, named ``index.name``, as its parameters are shared out."""
    found = dict(moments)
    if not asked():
        return found
    from torch.distributed.tensor import DTensor, distribute_tensor

    for key, value in moments.items():
        p = parameters[int(key.partition(".")[0])]
        if isinstance(p, DTensor) and value.shape == p.shape:
            found[key] = distribute_tensor(value.to(p.device), p.device_mesh, p.placements)
    return found
