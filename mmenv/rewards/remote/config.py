"""How a reward is served: the one home of these settings and their defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from mmenv.rewards.remote.messages import TOKEN
from mmenv.serving.guard import check_token, is_loopback, new_token

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Serving:
    """How a reward is served.

    Attributes:
        host: address to listen at.
        port: port to listen at; 0 takes a free one.
        token: what every request has to carry, also one from this machine, which others may use too. The environment
            variable MMENV_REWARD_TOKEN keeps it out of the list of processes.
        names: name that others know the server by, beside its address.
        waiting: most requests in the queue; a further one is told to come again.
        merge: above 0, waiting requests are scored in one call of up to so many responses. A network's scores then
            depend in their last bits on who else asked; leave it at 0 where they must be those of a local call.
        body_limit: most bytes of a request.
        bodies_limit: most bytes of all requests that are being read, wait or are scored; beyond it a request is told to
            come again.
        request_seconds: most seconds until a request is complete.
        made: whether the token was made here, because neither the argument nor the environment variable gave one.

    Raises:
        ValueError: names the argument and the remedy.
    """

    host: str = "127.0.0.1"
    port: int = 8766
    token: Annotated[str | None, arg(help_behavior_hint=f"(default: {TOKEN}, or a new one that is printed)")] = field(
        default=None, repr=False
    )
    names: Annotated[UseAppendAction[tuple[str, ...]], arg(name="name")] = ()
    waiting: int = 256
    merge: int = 0
    body_limit: int = 64 * MEBIBYTE
    bodies_limit: int = 256 * MEBIBYTE
    request_seconds: float = 60.0
    made: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        token = os.environ.get(TOKEN) if self.token is None else self.token
        if token is None and not is_loopback(self.host):
            raise ValueError(f"host {self.host!r} can be reached from other machines: give --token, or set {TOKEN}")
        object.__setattr__(self, "made", token is None)
        token = new_token() if token is None else check_token(token)
        if not self.body_limit <= self.bodies_limit or not self.request_seconds > 0:
            raise ValueError(
                f"bodies_limit={self.bodies_limit} is below body_limit={self.body_limit}, or "
                f"request_seconds={self.request_seconds} is not positive: give more"
            )
        if self.waiting < 1 or self.merge < 0 or self.body_limit < 1:
            raise ValueError(
                f"waiting={self.waiting}, merge={self.merge}, body_limit={self.body_limit}: give 1, 0 and 1 or more"
            )
        object.__setattr__(self, "token", token)
