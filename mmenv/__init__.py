"""mmenv: multimodal generation as token-level Gymnasium environments, rewarded by preference models."""

from __future__ import annotations

import importlib
from typing import Any

from mmenv.registration import register, register_all

__version__ = "0.1.0"

# Public name -> where it lives; loaded when first asked for: importing mmenv loads neither torch nor transformers.
_PUBLIC = {
    "Task": "mmenv.tasks.base",
    "Sample": "mmenv.data.sample",
    "Response": "mmenv.data.sample",
    "read_dataset": "mmenv.data.readers.by_path",
    "read_vqa": "mmenv.data.readers.by_path",
    "from_datasets": "mmenv.data.readers.hub",
    "DatasetError": "mmenv.data.media",
    "DatasetWarning": "mmenv.data.sample",
    "Tokenizer": "mmenv.tokenizer",
    "WordTokenizer": "mmenv.tokenizer",
    "HFTokenizer": "mmenv.tokenizer",
    "UnicodeTokenizer": "mmenv.tokenizer",
    "learn_tokenizer": "mmenv.tokenizer",
    "RewardFunction": "mmenv.rewards.base",
    "RewardError": "mmenv.rewards.base",
    "TokenReward": "mmenv.rewards.tokens",
    "GoldReward": "mmenv.rewards.base",
    "WeightedSum": "mmenv.rewards.base",
    "LengthPenalty": "mmenv.rewards.base",
    "ArgumentError": "mmenv.arguments",
    "TokenEnv": "mmenv.envs.token_env",
    "TokenVectorEnv": "mmenv.envs.token_vector_env",
    "say": "mmenv.envs.text",
    "finished": "mmenv.envs.infos",
    "Finished": "mmenv.envs.infos",
    "check_env": "mmenv.envs.checker",
    "ReferenceLogProb": "mmenv.wrappers",
    "VectorReferenceLogProb": "mmenv.wrappers",
    "evaluate": "mmenv.evaluation",
    "Evaluation": "mmenv.evaluation",
    "load_pretrained": "mmenv.models.checkpoints",
    "load_preference_model": "mmenv.rewards.preference.model",
}

__all__ = ["__version__", "register", *sorted(_PUBLIC)]

register_all()


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'mmenv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
