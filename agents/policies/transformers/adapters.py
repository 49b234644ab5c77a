"""LoRA adapters (Hu et al. 2022) in a model of transformers, by PEFT: added in place, switched off, merged.

PEFT's own functions are called here and not ``add_adapter`` and ``disable_adapters`` of transformers, which refuse
every PEFT but the newest (transformers 5.24 refuses PEFT 0.21).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from mmenv.models.folders import installed


def add_adapters(model: Any, rank: int) -> None:
    """Add adapters of rank ``rank`` to every linear layer of the language model; the model keeps its class."""
    linear = (nn.Linear, installed("transformers.pytorch_utils").Conv1D)
    decoder = {id(module) for module in model.get_decoder().modules()}
    names = [name for name, module in model.named_modules() if id(module) in decoder and isinstance(module, linear)]
    peft = installed("peft")
    lora = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, lora_dropout=0.0)
    peft.inject_adapter_in_model(lora, model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()  # bfloat16 would round small steps away


@contextlib.contextmanager
def without_adapters(model: Any) -> Iterator[None]:
    """Run a block with the adapters of ``model`` switched off."""
    layers = list(_adapted_layers(model).values())
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merge_adapters(model: Any) -> None:
    """Add the adapters to the weights below them and remove them; ``model`` then is as transformers made it."""
    for name, layer in _adapted_layers(model).items():
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    del model.peft_config  # of the adapters that were removed


def _adapted_layers(model: Any) -> dict[str, Any]:
    """Layers with adapters, by name."""
    kind = installed("peft").tuners.tuners_utils.BaseTunerLayer
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}
