"""Loading a model of transformers as a network of a policy, and merging what it has learned."""

from __future__ import annotations

from pathlib import Path

import torch

from agents.policies.transformers.adapters import merge_adapters
from agents.policies.transformers.checks import check_passes
from agents.policies.transformers.config import HFConfig
from agents.policies.transformers.network import HFNetwork
from mmenv.models.checkpoints import WeightsError
from mmenv.models.folders import installed, read_config, read_model, read_processor, read_tokenizer


def load_transformers(config: HFConfig, device: str = "cpu") -> HFNetwork:
    """Load a model and its processor or tokenizer from a folder of ``save_pretrained``; none of its code is run.

    Raises:
        WeightsError: the folder holds no language model, or one whose cache cannot be shared.
        ModuleNotFoundError: transformers or peft is missing; the message has the command that installs it.
    """
    hf, folder = installed("transformers"), Path(config.path)
    model_config = read_config(folder)
    mappings = {
        hf.AutoModelForMultimodalLM: hf.MODEL_FOR_MULTIMODAL_LM_MAPPING,
        hf.AutoModelForCausalLM: hf.MODEL_FOR_CAUSAL_LM_MAPPING,
    }
    auto = next((auto for auto, mapping in mappings.items() if type(model_config) in mapping), None)
    if auto is None:
        raise WeightsError(f"{folder} holds a {model_config.model_type}, which writes no text: give a language model")
    reader = read_processor(folder) if auto is hf.AutoModelForMultimodalLM else read_tokenizer(folder)
    model = read_model(auto, folder, dtype=getattr(torch, config.dtype))
    network = HFNetwork(model.to(device), reader, config).to(device)
    check_passes(network)
    return network


def merged(network: HFNetwork, config: HFConfig) -> HFNetwork:
    """A network with the adapters of ``network`` merged into its weights, and new ones as ``config`` says.

    ``network`` must not be used afterwards: both share one model.
    """
    model, dtype = network.model, getattr(torch, config.dtype)
    if dtype == torch.float32:
        model.to(dtype)  # before merging, or the sum would be rounded to fewer bits
    if network.config.lora_rank:
        merge_adapters(model)
    fresh = HFNetwork(model.to(dtype), network.reader, config)
    fresh.value_head.load_state_dict(network.value_head.state_dict())
    if network.vision is not None and fresh.vision is not None:
        fresh.vision.load_state_dict(network.vision.state_dict())
    return fresh.to(model.device).eval()
