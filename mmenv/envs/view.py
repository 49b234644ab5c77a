"""The data that a rendering of an episode shows."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmenv.data.sample import Sample


@dataclass(frozen=True)
class EpisodeView:
    """One reply for rendering: the one being written, or an earlier one of a dialogue.

    Attributes:
        sample: the sample of the reply, with the media that the agent receives.
        prompt: text of the prompt, ``""`` at the first turn of a dialogue.
        response: text so far.
        stop: ``"eos"`` or ``"budget"``, None while the response is being written.
        reward: what the ended response earned, or None.
        gold: gold of the ended response, None before the end and where it is unknown.
        components: parts of a composed reward by name, empty otherwise.
        tokens_used: tokens written so far.
        budget: tokens that may be written.
        history: the replies before this one in the same dialogue, each with an empty history.
    """

    sample: Sample
    prompt: str
    response: str
    stop: str | None = None
    reward: float | None = None
    gold: float | None = None
    components: dict[str, float] = field(default_factory=dict)
    tokens_used: int = 0
    budget: int = 0
    history: tuple[EpisodeView, ...] = ()
