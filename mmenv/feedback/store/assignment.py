"""Assignment of items: which are open to an annotator, and the leases that reserve them.

The cost of a request does not grow with the items stored. Items are looked up by their number of judges (an index),
from ``passed`` on: up to there nothing is open to the annotator. The leases, few at any time, are read by themselves.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, exists, func, insert, select, update

from mmenv.feedback.store.progress import EVERYBODY
from mmenv.feedback.store.schema import annotators, items, judgements, leases, tallies

CLOCK_ERROR = 60.0  # seconds: a lease from further ahead was taken while the clock was wrong


@dataclass(frozen=True)
class StoreConfig:
    """Waits, leases and repeats of a store.

    Attributes:
        lease_seconds: how long an item is reserved for an annotator who has not answered.
        wait_seconds: how long to wait for a database that another program has locked.
        repeat_gap: least number of an annotator's judgements between an item and its repeat.
        seed: of the draw of repeats; None draws anew each time.
    """

    lease_seconds: float = 600.0
    wait_seconds: float = 10.0
    repeat_gap: int = 10
    seed: int | None = None


class Assignment(NamedTuple):
    """An item for an annotator, and whether it is a repeat."""

    item_id: int
    repeated: bool


@dataclass(frozen=True)
class ItemRequest:
    """An annotator's request for an item.

    Attributes:
        annotator_id: of who asks.
        overlap: how many annotators judge an item.
        now: seconds since the epoch.
        queue: items that the annotator has fetched already, in the order of judging.
    """

    annotator_id: int
    overlap: int
    now: float
    queue: Sequence[int] = ()


def _is_valid(now: float) -> ColumnElement[bool]:
    """Whether a lease is valid: it has not expired, and was not taken by a clock that was ahead."""
    lease = leases.c
    return and_(lease.expires > now, lease.taken <= now + CLOCK_ERROR, ~lease.repeated)


def _answered_by(annotator_id: int) -> ColumnElement[bool]:
    """Whether an annotator has judged or skipped the item of the outer query."""
    j = judgements.c
    return exists().where(j.item_id == items.c.id, j.annotator_id == annotator_id, ~j.undone)


def _other_leases(annotator_id: int, now: float) -> ColumnElement[int]:
    """How many others have a lease on the item of the outer query."""
    lease = leases.c
    others = select(func.count()).where(lease.item_id == items.c.id, lease.annotator_id != annotator_id, _is_valid(now))
    return others.correlate(items).scalar_subquery()


def _open_to(request: ItemRequest) -> ColumnElement[bool]:
    """Whether an annotator may still judge the item of the outer query.

    Not after having judged or skipped it, and not once ``overlap`` others have judged it or have a lease on it. A skip
    of somebody else leaves the item open.
    """
    below_overlap = items.c.judges + _other_leases(request.annotator_id, request.now) < request.overlap
    return and_(~_answered_by(request.annotator_id), below_overlap)


def assign(
    connection: Connection, request: ItemRequest, repeats: float, config: StoreConfig, rng: random.Random
) -> Assignment | None:
    """Lease the next item to an annotator; with probability ``repeats`` one to judge again. None if none is open."""
    _renew_queue(connection, request, config.lease_seconds)
    assigned = _leased_to(connection, request)
    if assigned is None:
        assigned = _first_open(connection, request)
        if assigned is not None and rng.random() < repeats:
            assigned = _draw_repeat(connection, request, config.repeat_gap, rng) or assigned
    if assigned is not None:
        taken = request.now - len(request.queue)
        lease_item(connection, assigned, request.annotator_id, taken, config.lease_seconds)
    return assigned


def _leased_to(connection: Connection, request: ItemRequest) -> Assignment | None:
    """The latest item that an annotator has a lease on, outside the queue.

    An expired lease counts until somebody else gets the item.
    """
    lease, me = leases.c, request.annotator_id
    mine = select(lease.item_id, lease.repeated).where(lease.annotator_id == me, lease.item_id.not_in(request.queue))
    for item_id, repeated in connection.execute(mine.order_by(lease.taken.desc())).all():
        fits = _answered_by(me) if repeated else _open_to(request)
        if connection.scalar(select(items.c.id).where(items.c.id == item_id, fits)) is not None:
            return Assignment(item_id, repeated)
        release(connection, item_id, me)
    return None


def _first_open(connection: Connection, request: ItemRequest) -> Assignment | None:
    """The first item, in the order of adding, that is open to an annotator and not in the queue."""
    passed = _passed(connection, request)
    fits = and_(_open_to(request), items.c.id.not_in(request.queue))
    leased = select(items.c.id).where(items.c.id.in_(select(leases.c.item_id)), items.c.id <= passed)
    leased = leased.where(items.c.judges < request.overlap, fits)
    returned = connection.scalar(leased.order_by(items.c.id).limit(1))
    candidates = []
    for judges in _judges_below(connection, request.overlap):
        query = select(items.c.id).where(items.c.judges == judges, items.c.id > passed, fits)
        item_id = connection.scalar(query.order_by(items.c.id).limit(1))
        if item_id is not None:
            candidates.append(item_id)
    _update_passed(connection, request, passed, min(candidates, default=None))
    if returned is not None:
        candidates.append(returned)
    return Assignment(min(candidates), False) if candidates else None


def _judges_below(connection: Connection, overlap: int) -> Sequence[int]:
    """Numbers of judges below the overlap that items have."""
    t = tallies.c
    return connection.scalars(
        select(t.judges).where(t.annotator_id == EVERYBODY, t.judges < overlap, t.number > 0).order_by(t.judges)
    ).all()


def _passed(connection: Connection, request: ItemRequest) -> int:
    who = annotators.c
    row = connection.execute(select(who.passed, who.passed_overlap).where(who.id == request.annotator_id)).one()
    return row.passed if row.passed_overlap == request.overlap else 0


def _update_passed(connection: Connection, request: ItemRequest, passed: int, first: int | None) -> None:
    """Store how far nothing is open to an annotator: up to before ``first``, or to the last item."""
    last = (connection.scalar(select(func.max(items.c.id))) or 0) if first is None else first - 1
    if request.queue:  # queued items without a lease any more may come back
        lease = leases.c
        mine = and_(lease.annotator_id == request.annotator_id, lease.item_id.in_(request.queue))
        leased = connection.scalars(select(lease.item_id).where(mine))
        last = min([last, *(item_id - 1 for item_id in set(request.queue) - set(leased))])
    if last != passed:
        me = update(annotators).where(annotators.c.id == request.annotator_id)
        connection.execute(me.values(passed=max(0, last), passed_overlap=request.overlap))


def _draw_repeat(connection: Connection, request: ItemRequest, gap: int, rng: random.Random) -> Assignment | None:
    """An item that an annotator judged at least ``gap`` judgements ago and was not shown again; drawn at random."""
    j, me = judgements.c, request.annotator_id
    mine = select(j.id).where(j.annotator_id == me, ~j.undone)
    latest = connection.scalar(mine.order_by(j.id.desc()).limit(1).offset(gap))
    if latest is None:
        return None
    query = select(j.id, j.item_id).where(j.annotator_id == me, j.repeatable, j.id <= latest)
    query = query.where(j.item_id.not_in(request.queue)).order_by(j.id).limit(1)
    first = connection.execute(query).first()
    if first is None:
        return None
    # The next one from a random id on, so that the others are not read.
    drawn = connection.execute(query.where(j.id >= rng.randint(first.id, latest))).first()
    return Assignment((drawn or first).item_id, True)


def held_by_others(connection: Connection, request: ItemRequest) -> int:
    """How many items an annotator could judge if others had no lease on them."""
    lease, me = leases.c, request.annotator_id
    leased = select(lease.item_id).where(lease.annotator_id != me, _is_valid(request.now))
    held = select(items.c.id).where(items.c.id.in_(leased), items.c.judges < request.overlap, ~_answered_by(me))
    held = held.where(items.c.judges + _other_leases(me, request.now) >= request.overlap)
    return connection.scalar(select(func.count()).select_from(held.subquery())) or 0


def lease_item(connection: Connection, assigned: Assignment, annotator_id: int, now: float, seconds: float) -> None:
    """Give an annotator a lease on an item, or a longer one."""
    release(connection, assigned.item_id, annotator_id)
    lease = insert(leases).values(annotator_id=annotator_id, taken=now, expires=now + seconds, **assigned._asdict())
    connection.execute(lease)


def _renew_queue(connection: Connection, request: ItemRequest, seconds: float) -> None:
    """Renew the leases on an annotator's queue, so that the first item of it counts as the latest."""
    lease = leases.c
    mine = and_(lease.item_id == bindparam("of_item"), lease.annotator_id == request.annotator_id)
    renewed = update(leases).where(mine).values(taken=bindparam("at"), expires=request.now + seconds)
    if request.queue:
        times = [{"of_item": item_id, "at": request.now - place} for place, item_id in enumerate(request.queue)]
        connection.execute(renewed, times)


def release(connection: Connection, item_id: int, annotator_id: int) -> None:
    """End a lease, if there is one."""
    connection.execute(delete(leases).where(leases.c.item_id == item_id, leases.c.annotator_id == annotator_id))


def is_repeat(connection: Connection, item_id: int, annotator_id: int) -> bool:
    """Whether an annotator has a lease on an item to judge it again."""
    lease = leases.c
    mine = select(lease.repeated).where(lease.item_id == item_id, lease.annotator_id == annotator_id)
    return bool(connection.scalar(mine))
