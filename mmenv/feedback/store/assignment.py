"""Who judges what: items that are still open to an annotator, and the leases that reserve them.

What a request costs does not grow with the items stored. Items are found by their number of judges (an index), from
``passed`` on: up to there an annotator has nothing left to do. The leases, few at any time, are read by themselves.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, exists, func, insert, select, update

from mmenv.feedback.store.judging import EVERYBODY
from mmenv.feedback.store.schema import annotators, items, judgements, leases, tallies

CLOCK_ERROR = 60.0  # seconds: a lease from further ahead was taken while the clock was wrong


class Held(NamedTuple):
    """An item that is reserved for an annotator."""

    item_id: int
    repeated: bool


@dataclass(frozen=True)
class Request:
    """Who asks for an item, and how.

    Attributes:
        annotator_id: who.
        overlap: how many annotators judge an item.
        now: seconds since the epoch.
        hand: items that the annotator has in hand already.
    """

    annotator_id: int
    overlap: int
    now: float
    hand: Sequence[int] = ()


def holds(now: float) -> ColumnElement[bool]:
    """Whether a lease holds: it has not expired, and was not taken by a clock that was ahead."""
    lease = leases.c
    return and_(lease.expires > now, lease.taken <= now + CLOCK_ERROR, ~lease.repeated)


def answered_by(annotator_id: int) -> ColumnElement[bool]:
    """Whether an annotator has judged or skipped the item of the outer query."""
    j = judgements.c
    return exists().where(j.item_id == items.c.id, j.annotator_id == annotator_id, ~j.undone)


def _holders(annotator_id: int, now: float) -> ColumnElement[int]:
    """How many others hold the item of the outer query."""
    lease = leases.c
    others = select(func.count()).where(lease.item_id == items.c.id, lease.annotator_id != annotator_id, holds(now))
    return others.correlate(items).scalar_subquery()


def open_to(request: Request) -> ColumnElement[bool]:
    """Whether an annotator may still judge the item of the outer query.

    Not after having judged or skipped it, and not where ``overlap`` others have judged or hold it. A skip of somebody
    else leaves the item to others.
    """
    few = items.c.judges + _holders(request.annotator_id, request.now) < request.overlap
    return and_(~answered_by(request.annotator_id), few)


def held_by(connection: Connection, request: Request) -> Held | None:
    """What an annotator holds already beside the hand, the latest first.

    An expired lease holds while nobody else took over.
    """
    lease, me = leases.c, request.annotator_id
    mine = select(lease.item_id, lease.repeated).where(lease.annotator_id == me, lease.item_id.not_in(request.hand))
    for item_id, repeated in connection.execute(mine.order_by(lease.taken.desc())).all():
        allowed = answered_by(me) if repeated else open_to(request)
        if connection.scalar(select(items.c.id).where(items.c.id == item_id, allowed)) is not None:
            return Held(item_id, repeated)
        release(connection, item_id, me)
    return None


def first_open(connection: Connection, request: Request) -> Held | None:
    """The first item, in the order of adding, that is open to an annotator and not in the hand."""
    passed = _passed(connection, request)
    fitting = and_(open_to(request), items.c.id.not_in(request.hand))
    leased = select(items.c.id).where(items.c.id.in_(select(leases.c.item_id)), items.c.id <= passed)
    leased = leased.where(items.c.judges < request.overlap, fitting)
    returned = connection.scalar(leased.order_by(items.c.id).limit(1))
    ahead = [
        connection.scalar(
            select(items.c.id)
            .where(items.c.judges == judges, items.c.id > passed, fitting)
            .order_by(items.c.id)
            .limit(1)
        )
        for judges in _open_levels(connection, request.overlap)
    ]
    found = [item_id for item_id in ahead if item_id is not None]
    _pass(connection, request, passed, min(found, default=None))
    if returned is not None:
        found.append(returned)
    return Held(min(found), False) if found else None


def _open_levels(connection: Connection, overlap: int) -> Sequence[int]:
    """Numbers of judges below the overlap that items have."""
    t = tallies.c
    return connection.scalars(
        select(t.judges).where(t.annotator_id == EVERYBODY, t.judges < overlap, t.number > 0).order_by(t.judges)
    ).all()


def _passed(connection: Connection, request: Request) -> int:
    who = annotators.c
    row = connection.execute(select(who.passed, who.passed_overlap).where(who.id == request.annotator_id)).one()
    return row.passed if row.passed_overlap == request.overlap else 0


def _pass(connection: Connection, request: Request, passed: int, first: int | None) -> None:
    """Note how far there is nothing left to do for an annotator: up to ``first``, or to the last item of all."""
    last = (connection.scalar(select(func.max(items.c.id))) or 0) if first is None else first - 1
    if request.hand:  # what is in hand without a lease any more may come back
        lease = leases.c
        leased = select(lease.item_id).where(
            lease.annotator_id == request.annotator_id, lease.item_id.in_(request.hand)
        )
        last = min([last, *(i - 1 for i in set(request.hand) - set(connection.scalars(leased)))])
    if last != passed:
        mine = update(annotators).where(annotators.c.id == request.annotator_id)
        connection.execute(mine.values(passed=max(0, last), passed_overlap=request.overlap))


def draw_repeat(connection: Connection, request: Request, gap: int, rng: random.Random) -> Held | None:
    """An item that an annotator has judged, at least ``gap`` judgements ago, and has not been shown again."""
    j, me = judgements.c, request.annotator_id
    mine = select(j.id).where(j.annotator_id == me, ~j.undone)
    latest = connection.scalar(mine.order_by(j.id.desc()).limit(1).offset(gap))
    if latest is None:
        return None
    fitting = select(j.id, j.item_id).where(j.annotator_id == me, j.repeatable, j.id <= latest)
    fitting = fitting.where(j.item_id.not_in(request.hand))
    first = connection.execute(fitting.order_by(j.id).limit(1)).first()
    if first is None:
        return None
    # The next one from a random number on: nothing but this one and its neighbours is read.
    drawn = connection.execute(fitting.where(j.id >= rng.randint(first.id, latest)).order_by(j.id).limit(1)).first()
    return Held((drawn or first).item_id, True)


def waiting(connection: Connection, request: Request) -> int:
    """How many items an annotator could judge if others did not hold them."""
    lease, me = leases.c, request.annotator_id
    held = select(items.c.id).where(items.c.judges < request.overlap, ~answered_by(me))
    held = held.where(items.c.judges + _holders(me, request.now) >= request.overlap)
    some = held.where(items.c.id.in_(select(lease.item_id).where(lease.annotator_id != me, holds(request.now))))
    return connection.scalar(select(func.count()).select_from(some.subquery())) or 0


def reserve(connection: Connection, held: Held, annotator_id: int, now: float, seconds: float) -> None:
    """Give an annotator a lease on an item, or a longer one."""
    release(connection, held.item_id, annotator_id)
    connection.execute(
        insert(leases).values(
            item_id=held.item_id, annotator_id=annotator_id, repeated=held.repeated, taken=now, expires=now + seconds
        )
    )


def keep(connection: Connection, request: Request, seconds: float) -> None:
    """Renew the leases on what an annotator has in hand, so that the first of it counts as the latest."""
    lease = leases.c
    mine = and_(lease.item_id == bindparam("of_item"), lease.annotator_id == request.annotator_id)
    renewed = update(leases).where(mine).values(taken=bindparam("at"), expires=request.now + seconds)
    if request.hand:
        places = [{"of_item": item_id, "at": request.now - place} for place, item_id in enumerate(request.hand)]
        connection.execute(renewed, places)


def release(connection: Connection, item_id: int, annotator_id: int) -> None:
    """End a lease, if there is one."""
    connection.execute(delete(leases).where(leases.c.item_id == item_id, leases.c.annotator_id == annotator_id))


def repeat_held(connection: Connection, item_id: int, annotator_id: int) -> bool:
    """Whether an annotator holds an item that he judged before, to judge it again."""
    lease = leases.c
    mine = select(lease.repeated).where(lease.item_id == item_id, lease.annotator_id == annotator_id)
    return bool(connection.scalar(mine))
