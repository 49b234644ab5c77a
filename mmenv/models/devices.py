"""Where networks run."""

from __future__ import annotations

import torch


def device_named(name: str) -> torch.device:
    """The device of a name such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises:
        ValueError: no such device is known, or this torch sees no card.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is unknown to torch: take 'cpu' or 'cuda'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name!r}: this torch sees no such card; take device='cpu'")
    return device
