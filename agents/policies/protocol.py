"""What a policy asks of its network: protocols that our own networks and models of transformers satisfy alike.

Another network (a state-space model, say) needs these members and nothing else: ``TokenPolicy``, rollouts, algorithms
and the trainer use no others. A prefix and a cache are opaque to them; only the network that made them looks inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, TypeVar

from torch import Tensor, nn


class Prefix(Protocol):
    """Contexts that are ready to be read: media encoded, prompts as tokens."""

    @property
    def prompt(self) -> Tensor:
        """int64 (K, P), padded tokens; there are K contexts."""

    def select(self, index: Tensor) -> Self:
        """The contexts ``index`` (n,), with prompts as wide as before."""

    def join(self, others: Sequence[Self], pad_id: int) -> Self:
        """These contexts followed by those of ``others``, padded to the widest prompt."""

    def with_media(self, other: Self) -> Self:
        """These contexts with the encoded media of ``other``, which holds the same contexts."""


class Cache(Protocol):
    """Keys and values, or whatever else the network remembers of B contexts and the tokens after them."""

    def select(self, index: Tensor) -> Self:
        """A cache of the rows ``index`` (n,) alone; an index may come several times."""

    def replace(self, rows: Tensor, other: Self) -> None:
        """Overwrite ``rows`` (n,) by the n rows of ``other``, which begin new contexts."""


class Shape(Protocol):
    """Configuration of a network: a dataclass of plain values, stored as JSON beside its weights."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def kind(self) -> str:
        """What a file of its trained state holds, for readers of the file's metadata."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens, padding included."""

    @property
    def pad_id(self) -> int:
        """Token that pads prompts and responses."""

    @property
    def max_response(self) -> int:
        """Longest response in tokens."""


P = TypeVar("P", bound=Prefix)
C = TypeVar("C", bound=Cache)


class PolicyNetwork(Protocol[P, C]):
    """An autoregressive network with a language head and a value head; an ``nn.Module``.

    Hidden states have shape (..., width). The state before a token predicts it: ``logits`` gives its distribution,
    ``value`` the return that is expected from there.
    """

    @property
    def config(self) -> Shape:
        """Its shape."""

    @property
    def forbidden_token_ids(self) -> tuple[int, ...]:
        """Tokens that a policy never samples, padding among them."""

    # Contexts.

    def encode(self, observations: Mapping[str, Tensor]) -> P:
        """Encode contexts.

        Args:
            observations: image uint8 (K, H, W, 3), audio float32 (K, T), prompt int64 (K, P) right-padded.

        Raises:
            ValueError: a medium is missing, or one that the network cannot read.
        """

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that ``encode`` uses and training leaves as they are unless asked to change them."""

    # Passes.

    def start(self, prefix: P, budget: int) -> tuple[Tensor, C]:
        """Read K contexts.

        Args:
            prefix: K contexts.
            budget: longest response in tokens.

        Returns:
            hidden states (K, width) that predict the first tokens, and the cache.
        """

    def step(self, tokens: Tensor, cache: C) -> Tensor:
        """Write ``tokens`` (B,) into the cache; hidden states (B, width) predict the next ones."""

    def __call__(self, prefix: P, responses: Tensor, contexts: Tensor | None = None) -> Tensor:
        """``forward``."""

    def forward(self, prefix: P, responses: Tensor, contexts: Tensor | None = None) -> Tensor:
        """Read complete responses in one pass.

        Args:
            prefix: K contexts.
            responses: int64 (B, T).
            contexts: int64 (B,), the context of each response; None: response i answers context i.

        Returns:
            hidden states (B, T, width); [:, t] predicts responses[:, t].
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocab_size)."""

    def value(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (...)."""

    # Weights.

    def frozen(self) -> PolicyNetwork[P, C]:
        """The network as it is now, without gradients; training this one does not change it."""

    def trained_state(self) -> dict[str, Tensor]:
        """The weights that a checkpoint holds, by name: all, or those that training changes."""

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Put a ``trained_state`` back.

        Raises:
            WeightsError: it is of another network, or of other adapters.
        """

    # Of ``nn.Module``.

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """All parameters."""

    def modules(self) -> Iterator[nn.Module]:
        """The network itself and all modules in it."""

    def state_dict(self) -> dict[str, Any]:
        """All weights by name."""


AnyNetwork = PolicyNetwork[Any, Any]
