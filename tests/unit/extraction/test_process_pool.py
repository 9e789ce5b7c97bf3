"""Workers that die, exit and prefetch: each item is processed, and the failure is attributed to the right one."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

from m3flow.errors import Interrupted, UsageError
from m3flow.extraction.process_pool import Channel, Event, Workers

KILLER, LOSER = "killer", "loser"


def serve(channel: Channel, _slot: int) -> None:
    """Prefetches an item, as an extractor does; the result is whether there was one."""

    channel.ready()
    item = channel.take(wait=True)
    while item is not None:
        following = channel.take(wait=False)
        channel.note("begun")
        if item == KILLER:
            os.kill(os.getpid(), signal.SIGKILL)
        if item.startswith(LOSER):
            return channel.lost("the GPU is lost")
        channel.done((item, following is not None))
        item = following or channel.take(wait=True)
    return None


def dies(_channel: Channel, _slot: int) -> None:
    os._exit(5)


def refuses(channel: Channel, _slot: int) -> None:
    channel.unusable("no such device")


def ends(items: list[str], count: int) -> list[Event[str]]:
    found = []
    with Workers(items, count, serve, ()) as workers:
        while workers.left:
            found += [event for event in workers.events(0.2) if event.last]
    return found


@pytest.mark.parametrize("count", [1, 3])
def test_every_item_once(count: int) -> None:
    items = [str(number) for number in range(20)]
    found = ends(items, count)
    assert Counter(event.item for event in found) == Counter(items)
    assert all(event.message[0] == event.item and not event.death for event in found)


def test_workers_do_not_prefetch_items_that_idle_workers_wait_for() -> None:
    taken = [event.message[1] for event in ends([str(number) for number in range(12)], 2)]
    assert taken.count(True) >= 8
    assert not any(event.message[1] for event in ends(["a", "b"], 2))


@pytest.mark.parametrize("place", [0, 7, 19])
@pytest.mark.parametrize("count", [1, 2])
def test_the_one_that_kills_its_worker_is_found(place: int, count: int) -> None:
    items = [str(number) for number in range(20)]
    items[place] = KILLER
    found = ends(items, count)
    assert Counter(event.item for event in found) == Counter(items)
    dead = {event.item: event.death for event in found if event.death}
    assert dead == {KILLER: "SIGKILL; out of memory?"}


@pytest.mark.parametrize("count", [1, 2])
def test_one_that_loses_its_device_gives_its_reason_and_costs_no_other(count: int) -> None:
    items = [*map(str, range(5)), f"{LOSER} 1", *map(str, range(5, 9)), f"{LOSER} 2", "last"]
    found = ends(items, count)
    assert Counter(event.item for event in found) == Counter(items)
    assert {event.item: event.death for event in found if event.death} == {
        f"{LOSER} 1": "the GPU is lost",
        f"{LOSER} 2": "the GPU is lost",
    }


def test_those_that_cannot_start() -> None:
    with (
        pytest.raises(Interrupted, match="die during startup \\(status 5\\)"),
        Workers(["a"], 1, dies, ()) as workers,
    ):
        while workers.left:
            list(workers.events(0.2))
    with pytest.raises(UsageError, match="no such device"), Workers(["a"], 1, refuses, ()) as workers:
        while workers.left:
            list(workers.events(0.2))
