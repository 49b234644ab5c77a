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
    if device.type == "meta":
        raise ValueError(f"device={name!r} holds no values: take 'cpu' or 'cuda'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name!r}: this torch sees no such card; take 'cpu' or a card that there is")
    return device
