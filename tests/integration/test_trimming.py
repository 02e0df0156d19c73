"""Trimming forgets everything that is no longer needed, and nothing else."""

from __future__ import annotations

from uuid import UUID

import pytest
from django.db import transaction

from ohsessions import journal, lifecycle
from ohsessions.journal import Append
from tests.integration.world import (
    World,
    action,
    append,
    in_thread,
    log,
    observation,
    session,
    wait_for_lock_waiters,
)


def test_trimming_deletes_the_beginning_and_numbers_go_on(world: World):
    session_id, epoch = world.run("a")
    head = session(session_id).head
    assert journal.trim(session_id, head) == head
    assert [number for number, _ in log(session_id)] == [head]
    done = append(Append(session_id, [observation("more", "1.1")], epoch=epoch))
    assert done.numbers == [head + 1]
    assert session(session_id).first_number == head
    assert world.attach(session_id).first_number == head


def test_trimming_never_passes_an_action_that_is_not_handled(world: World):
    session_id, epoch = world.run("a")
    handled = world.act(session_id, "a").numbers[0]
    append(Append(session_id, [observation("one", "1.1")], epoch=epoch, handled=handled))
    pending = world.act(session_id, "a").numbers[0]
    journal.trim(session_id, pending + 100)
    assert session(session_id).first_number == handled + 1
    assert pending in [number for number, _ in log(session_id)]


def test_trimming_never_passes_what_is_still_to_be_written(world: World):
    session_id, epoch = world.run("a")
    journal.trim(session_id, 100)
    (number,) = append(Append(session_id, [observation("more", "1.1")], epoch=epoch)).numbers
    assert session(session_id).first_number == number
    assert journal.read_page(session_id, number - 1)[0][0] == number


def interrupt(session_id: UUID) -> int:
    """Append an interrupt from the session's client, and return its number."""
    return append(Append(session_id, [action(kind="change_agent_state", waits=False)], sid="a")).numbers[0]


def test_trimming_never_passes_an_interrupt_that_is_not_delivered(world: World):
    session_id, epoch = world.run("a")
    delivered, waiting, later = [interrupt(session_id) for _ in range(3)]
    append(Append(session_id, [], epoch=epoch, interrupted=delivered))
    journal.trim(session_id, later + 100)
    assert [number for number, _ in log(session_id)] == [waiting, later]
    append(Append(session_id, [], epoch=epoch, interrupted=later))
    journal.trim(session_id, later + 100)
    assert log(session_id) == []


def test_nobody_waits_for_the_interrupts_of_a_closed_session(world: World):
    session_id, _ = world.run("a")
    interrupt(session_id)
    lifecycle.close(session_id, by="me")
    journal.trim(session_id, 100)
    assert log(session_id) == []


def test_trimming_again_or_what_is_no_more_changes_nothing(world: World):
    session_id, _ = world.run("a")
    journal.trim(session_id, 1)
    before = session(session_id).first_number, log(session_id)
    assert journal.trim(session_id, 1) == 0
    assert (session(session_id).first_number, log(session_id)) == before


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_of_two_trims_at_once_the_further_one_counts(world: World):
    session_id, epoch = world.run("a")
    append(Append(session_id, [observation("more", f"1.{key}") for key in range(5)], epoch=epoch))
    with transaction.atomic():
        assert journal.trim(session_id, 5) == 5
        other = in_thread(journal.trim, session_id, 2)
        wait_for_lock_waiters()
    assert other() == 0
    assert session(session_id).first_number == 5
