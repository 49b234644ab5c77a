"""A module that registers an id when it is imported, as a user's own does; tests name it ``strange_ids:...``."""

from __future__ import annotations

from toys import Colours

import mmenv

ENV_ID = "strange_ids:strange/Tints-v0"
mmenv.register("strange/Tints-v0", Colours, reward="gold")
