"""Whether a loaded model of transformers computes the same token by token, in one pass, and by its own forward."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from agents.policies.transformers.cache import HFPrefix
from agents.policies.transformers.network import HFNetwork
from mmenv.models.checkpoints import WeightsError

# Largest difference of log-probabilities in nats that is rounding and not another computation.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1.0}


def check_passes(network: HFNetwork) -> None:
    """Compare the log-probabilities of a few tokens under the passes of rollouts and losses with the model's forward.

    Raises:
        WeightsError: they differ, or a pass fails.
    """
    name = network.model.config.model_type
    try:
        gaps = _gaps(network)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise WeightsError(f"this {name} cannot be read token by token ({reason}): take another model") from error
    for passes, gap in gaps.items():
        if not gap <= TOLERANCE[network.model.dtype]:
            raise WeightsError(
                f"log-probabilities of this {name} {passes} differ from its own forward by {gap:.2g} nats: it keeps or "
                "computes something that this code does not support, take another model"
            )


@torch.no_grad()
def _gaps(network: HFNetwork) -> dict[str, float]:
    """Largest absolute difference in nats to the model's own forward, by pass."""
    tokenizer, device = network.tokenizer, network.value_head.weight.device
    vocabulary = sorted(set(tokenizer.tokenizer.get_vocab().values()) - set(network.forbidden_token_ids))
    ids = torch.tensor(vocabulary[:: max(1, len(vocabulary) // 6)][:6], device=device)[None]
    response = ids[:, 3:]
    # Padding on the left, as shorter contexts have it: some families count positions from the first column.
    context = F.pad(ids[:, :3], (2, 0), value=network.config.pad_id)
    mask = torch.arange(5, device=device)[None] >= 2
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)[..., None]
    prefix = HFPrefix(context, mask, positions.expand(-1, -1, 3 if network.mrope else 1), {})
    expected = network.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, 2:]
    expected = expected[..., : tokenizer.num_tokens].float().log_softmax(-1)
    hidden, cache = network.start(prefix, response.shape[1])
    cached = torch.stack([hidden] + [network.step(token, cache) for token in response.T], 1)
    at_once = network(prefix, torch.cat([response, response[:, :1]], 1))
    return {
        passes: (network.logits(states)[..., : tokenizer.num_tokens].log_softmax(-1) - expected).abs().max().item()
        for passes, states in (("token by token", cached), ("at once", at_once))
    }
