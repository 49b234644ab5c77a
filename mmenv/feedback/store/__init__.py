"""The feedback store: items, annotators and judgements in SQLite or PostgreSQL."""

from mmenv.arguments import require

with require("labelling"):
    import sqlalchemy  # noqa: F401

from mmenv.feedback.store.assignment import StoreConfig
from mmenv.feedback.store.database import StoreError
from mmenv.feedback.store.items import Item, UnknownItemError
from mmenv.feedback.store.judgements import JudgedItem
from mmenv.feedback.store.progress import Counts
from mmenv.feedback.store.store import FeedbackStore

__all__ = ["Counts", "FeedbackStore", "Item", "JudgedItem", "StoreConfig", "StoreError", "UnknownItemError"]
