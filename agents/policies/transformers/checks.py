"""Which models of transformers can be policies: what is refused by name, and what is tried when one is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from agents.policies.transformers.cache import HFPrefix
from mmenv.models.checkpoints import WeightsError

if TYPE_CHECKING:
    from agents.policies.transformers.network import HFNetwork

ATTENTION = {"full_attention", "sliding_attention"}
# How far log-probabilities of two passes may be apart in nats: rounding, and not another model.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1.0}


def refuse_other_states(model: Any) -> None:
    """Refuse models that keep other states than keys and values of all tokens: rows of a cache are replaced here.

    Raises:
        WeightsError: it is an encoder-decoder, or some of its layers keep other states.
    """
    text = model.config.get_text_config().to_dict()
    kinds = set(text.get("layer_types") or ["full_attention"]) | ({"stateful"} if model._is_stateful else set())
    if model.config.is_encoder_decoder or not kinds <= ATTENTION:
        raise WeightsError(
            f"a {model.config.model_type} with {sorted(kinds)} layers keeps other states than keys and values of all "
            "tokens: take a decoder with attention in every layer"
        )
    if model.base_model is model or model.get_output_embeddings() is None:
        raise WeightsError(
            f"a {model.config.model_type} has no body and head of its own to take apart: take another language model"
        )


def check_passes(network: HFNetwork) -> None:
    """Try that token by token, at once, and by the model's own forward some tokens have the same probabilities.

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
                "computes something that is not known here, take another model"
            )


@torch.no_grad()
def _gaps(network: HFNetwork) -> dict[str, float]:
    """The largest differences of log-probabilities to the model's own forward, of the passes of rollouts and losses."""
    tokenizer, device = network.tokenizer, network.value_head.weight.device
    known = sorted(set(tokenizer.tokenizer.get_vocab().values()) - set(network.never))
    ids = torch.tensor(known[:: max(1, len(known) // 6)][:6], device=device)[None]
    said = ids[:, 3:]
    # Padding on the left, as shorter contexts have it: some families count positions from the first column.
    context = F.pad(ids[:, :3], (2, 0), value=network.config.pad_id)
    mask = torch.arange(5, device=device)[None] >= 2
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)[..., None]
    prefix = HFPrefix(context, mask, positions.expand(-1, -1, 3 if network.mrope else 1), {})
    own = network.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, 2:]
    own = own[..., : tokenizer.num_tokens].float().log_softmax(-1)
    hidden, cache = network.start(prefix, said.shape[1])
    cached = torch.stack([hidden] + [network.step(token, cache) for token in said.T], 1)
    at_once = network(prefix, torch.cat([said, said[:, :1]], 1))
    return {
        passes: (network.logits(states)[..., : tokenizer.num_tokens].log_softmax(-1) - own).abs().max().item()
        for passes, states in (("token by token", cached), ("at once", at_once))
    }
