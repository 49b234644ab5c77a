"""Who judges what: items that are still open to an annotator, and the leases that reserve them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, delete, distinct, exists, func, insert, select, update

from mmenv.feedback.schema import items, judgements, leases


class Held(NamedTuple):
    """An item that is reserved for an annotator."""

    item_id: int
    repeated: bool


def judged_by(annotator_id: int) -> ColumnElement[bool]:
    """Whether an annotator has judged or skipped the item of the outer query."""
    j = judgements.c
    return exists().where(j.item_id == items.c.id, j.annotator_id == annotator_id, ~j.undone)


def open_to(annotator_id: int, overlap: int, now: float) -> ColumnElement[bool]:
    """Whether an annotator may still judge the item of the outer query.

    Not after having judged or skipped it, and not where ``overlap`` others have judged or hold it. A skip of somebody
    else leaves the item to others.
    """
    j, lease = judgements.c, leases.c
    judges = select(func.count(distinct(j.annotator_id))).where(j.item_id == items.c.id, ~j.undone, ~j.skipped)
    holders = select(func.count()).where(
        lease.item_id == items.c.id, lease.annotator_id != annotator_id, lease.expires > now, ~lease.repeated
    )
    few = judges.scalar_subquery() + holders.scalar_subquery() < overlap
    return and_(~judged_by(annotator_id), few)


def held_by(
    connection: Connection, annotator_id: int, overlap: int, now: float, beside: Sequence[int] = ()
) -> Held | None:
    """What an annotator holds already beside some items, the latest first.

    An expired lease holds while nobody else took over.
    """
    lease = leases.c
    mine = select(lease.item_id, lease.repeated).where(lease.annotator_id == annotator_id, lease.item_id.not_in(beside))
    mine = mine.order_by(lease.taken.desc())
    for item_id, repeated in connection.execute(mine).all():
        allowed = judged_by(annotator_id) if repeated else open_to(annotator_id, overlap, now)
        if connection.scalar(select(items.c.id).where(items.c.id == item_id, allowed)) is not None:
            return Held(item_id, repeated)
        release(connection, item_id, annotator_id)
    return None


def first_open(
    connection: Connection, annotator_id: int, overlap: int, now: float, beside: Sequence[int] = ()
) -> Held | None:
    """The first item, in the order of adding, that is open to an annotator, beside some."""
    fitting = and_(open_to(annotator_id, overlap, now), items.c.id.not_in(beside))
    found = connection.scalar(select(items.c.id).where(fitting).order_by(items.c.id).limit(1))
    return None if found is None else Held(found, False)


def repeatable(connection: Connection, annotator_id: int, gap: int) -> list[int]:
    """Items that an annotator has judged, at least ``gap`` judgements ago, and has not been shown again."""
    j = judgements.c
    mine = select(j.item_id, j.repeated, j.skipped).where(j.annotator_id == annotator_id, ~j.undone).order_by(j.id)
    rows = connection.execute(mine).all()
    again = {row.item_id for row in rows if row.repeated}
    old = rows[: max(0, len(rows) - gap)]
    return [row.item_id for row in old if not row.skipped and row.item_id not in again]


def reserve(connection: Connection, held: Held, annotator_id: int, now: float, seconds: float) -> None:
    """Give an annotator a lease on an item, or a longer one."""
    release(connection, held.item_id, annotator_id)
    connection.execute(
        insert(leases).values(
            item_id=held.item_id, annotator_id=annotator_id, repeated=held.repeated, taken=now, expires=now + seconds
        )
    )


def keep(connection: Connection, beside: Sequence[int], annotator_id: int, now: float, seconds: float) -> None:
    """Renew the leases that an annotator has on some items, so that the first of them counts as the latest."""
    lease = leases.c
    for place, item_id in enumerate(beside):
        mine = and_(lease.item_id == item_id, lease.annotator_id == annotator_id)
        connection.execute(update(leases).where(mine).values(taken=now - place, expires=now + seconds))


def release(connection: Connection, item_id: int, annotator_id: int) -> None:
    """End a lease, if there is one."""
    connection.execute(delete(leases).where(leases.c.item_id == item_id, leases.c.annotator_id == annotator_id))
