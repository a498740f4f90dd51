"""The checker of histories is told histories whose fault is known."""

import math
from typing import Any

import pytest

from tests.model.history import (
    LATE_SECONDS,
    Change,
    History,
    Row,
    Violation,
    Write,
    fields,
)


def write(marker: str, sent: float, ended: float, status: int | None, **other: Any) -> Write:
    """An item of key 1, each in a request of its own to one process, unless told otherwise."""
    usual: dict[str, Any] = {"key": 1, "request": hash(marker), "place": 0, "process": "a"}
    usual["told"] = other.get("key", 1)
    return Write(marker, sent=sent, ended=ended, status=status, **{**usual, **other})


def stored(marker: str, key: int = 1, **other: Any) -> Row:
    return Row(key, *{**fields(marker), **other}.values())


def kinds(*events: Write | Change, initial: str | None = None) -> list[str]:
    history = History(
        "",
        {} if initial is None else {1: initial},
        [event for event in events if isinstance(event, Write)],
        [event for event in events if isinstance(event, Change)],
    )
    return [violation.kind for violation in history.violations()]


def committed(at: float, marker: str, key: int = 1, **other: Any) -> Change:
    return Change(at, stored(marker, key, **other))


CREATED = [write("a", 0, 1, 201), committed(0.5, "a")]
IN_DOUBT = "It is not known whether the record was created."


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([*CREATED, write("b", 2, 3, 200), committed(2.5, "b")], id="one by one"),
        pytest.param(
            [
                *CREATED,
                write("b", 2, 5, 200),
                write("c", 3, 4, 200),
                committed(3.5, "c"),
                committed(4.5, "b"),
            ],
            id="two at once, either may be last",
        ),
        pytest.param([write("a", 0, 1, 503)], id="503, not stored"),
        pytest.param([write("a", 0, 1, 503), committed(0.5, "a")], id="503, stored"),
        pytest.param([*CREATED, write("b", 2, 3, None), committed(4, "b")], id="no answer, stored"),
        pytest.param(
            [
                *CREATED,
                write("b", 2, 3, 503, process="b"),
                write("c", 4, 5, 200),
                committed(4.5, "c"),
                committed(6, "b"),
            ],
            id="503 of another process, still under way",
        ),
        pytest.param([write("a", 0, 1, 200), committed(0.5, "a")], id="200 after a lost reply"),
        pytest.param(
            [
                write("a", 0, 2, 201, request=1),
                write("b", 0, 2, 200, request=1, place=1),
                committed(1, "a"),
                committed(1, "b"),
            ],
            id="twice in one batch",
        ),
        pytest.param(
            [
                write("a", 0, 1, None),
                committed(0.5, "a"),
                write("b", 2, 3, 200),
                committed(2.5, "b"),
                write("a", 4, 5, 200, request=1),
                committed(4.5, "a"),
            ],
            id="sent again over a newer one",
        ),
        pytest.param(
            [
                write("n", 0, 1, None, key=0),
                committed(0.5, "n", 7),
                write("n", 2, 3, 201, key=0, told=7, request=1),
            ],
            id="no key, sent again",
        ),
        pytest.param(
            [write("n", 0, 1, 503, key=0, words=IN_DOUBT), committed(0.5, "n", 7)],
            id="no key, in doubt",
        ),
    ],
)
def test_what_one_order_explains_is_no_fault(events: list[Write | Change]) -> None:
    assert kinds(*events) == []


@pytest.mark.parametrize(
    ("kind", "events"),
    [
        pytest.param("lost", [write("a", 0, 1, 201)], id="created, not there"),
        pytest.param("lost", [*CREATED, write("b", 2, 3, 200)], id="update not there"),
        pytest.param(
            "lost", [write("a", 0, 1, 201), committed(2, "a")], id="told before it was committed"
        ),
        pytest.param(
            "late",
            [*CREATED, write("b", 2, 3, 200), committed(2.5, "b"), committed(4, "a")],
            id="older over newer",
        ),
        pytest.param(
            "late",
            [
                *CREATED,
                write("b", 2, 3, 503),
                write("c", 4, 5, 200),
                committed(4.5, "c"),
                committed(6, "b"),
            ],
            id="503, late",
        ),
        pytest.param(
            "late",
            [
                *CREATED,
                write("b", 2, 3, None, process="b"),
                write("c", 4 + LATE_SECONDS, 20, 200),
                committed(19, "c"),
                committed(21, "b"),
            ],
            id="of a killed process, after its deadline",
        ),
        pytest.param(
            "late",
            [
                *CREATED,
                write("b", 2, 3, None),
                write("c", 5, 6, 200),
                committed(5.5, "c"),
                committed(7, "b"),
            ],
            id="of a client that hung up",
        ),
        pytest.param("late", [*CREATED, committed(2, "z")], id="of an earlier history"),
        pytest.param(
            "late",
            [
                *CREATED,
                write("b", 2, 3, 200, request=1),
                write("c", 2, 3, 200, request=1, place=1),
                committed(2.5, "c"),
                committed(3.5, "b"),
            ],
            id="the first of a batch lies last",
        ),
        pytest.param(
            "mixed",
            [write("a", 0, 1, 201), committed(0.5, "a", study_Title="other")],
            id="two items in a row",
        ),
        pytest.param(
            "mixed",
            [write("b", 0, 1, 400, is_good=False), committed(0.5, "b")],
            id="refused, stored",
        ),
        pytest.param(
            "order", [*CREATED, write("b", 2, 3, 201), committed(2.5, "b")], id="created twice"
        ),
        pytest.param(
            "order",
            [
                write("a", 0, 1, 503, request=1),
                write("b", 0, 1, 200, request=1, place=1),
                committed(0.5, "b"),
            ],
            id="stored after a 503",
        ),
        pytest.param("refused", [write("a", 0, 1, 500)], id="an error of the service"),
        pytest.param("refused", [write("b", 0, 1, 201, is_good=False)], id="a bad item stored"),
        pytest.param("lost", [write("n", 0, 1, 201, key=0, told=7)], id="no key, lost"),
        pytest.param(
            "lost",
            [write("n", 0, 1, 201, key=0, told=7), committed(0.5, "n", 8)],
            id="no key, told another's",
        ),
        pytest.param(
            "lost",
            [
                write("n", 0, 1, 201, key=0, told=7),
                write("m", 2, 3, 201, key=0, told=7),
                committed(0.5, "n", 7),
                committed(2.5, "m", 7),
            ],
            id="no key, overwritten",
        ),
        pytest.param(
            "doubled",
            [
                write("n", 0, 1, 201, key=0, told=7),
                committed(0.5, "n", 7),
                committed(0.5, "n", 8),
            ],
            id="no key, twice",
        ),
        pytest.param(
            "doubled",
            [write("n", 0, 1, 503, key=0, words="Send it again."), committed(0.5, "n", 7)],
            id="no key, stored and to be sent again",
        ),
        pytest.param(
            "order",
            [write("n", 0, 1, 200, key=0, told=7), committed(0.5, "n", 7)],
            id="no key, updated",
        ),
    ],
)
def test_a_broken_promise_is_found(kind: str, events: list[Write | Change]) -> None:
    assert kind in kinds(*events)


def test_what_was_there_before_counts_as_created() -> None:
    updated = kinds(write("a", 0, 1, 200), committed(0.5, "a"), initial="z")
    created = kinds(write("a", 0, 1, 201), committed(0.5, "a"), initial="z")

    assert updated == []
    assert "order" in created


def test_a_503_without_a_reason_of_its_own_is_found() -> None:
    held = write("a", 0, 1, 503, request=1)
    follower = write("b", 0, 1, 503, request=1, place=1)
    other = write("c", 0, 1, 503, key=2, request=1, place=2)
    history = History(writes=[held, follower, other], excuse=lambda write: write is held)

    assert [violation.what.split()[0] for violation in history.violations()] == ["c"]


def test_without_a_lost_reply_somebody_is_told_created() -> None:
    history = History(
        writes=[write("a", 0, 1, 200)],
        changes=[committed(0.5, "a")],
        excuse=lambda _write: False,
    )

    assert [violation.kind for violation in history.violations()] == ["order"]


def test_what_a_sender_saw_for_itself_is_told() -> None:
    hung = Violation("hung", "no answer")

    assert History(noted=[hung]).violations() == [hung]
    assert write("a", 0, math.inf, None).is_possible
