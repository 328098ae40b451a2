"""The rules that end a machine, over a clock that the test sets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multitask.machine.limits import (
    LATE_SECONDS,
    UNSTARTED_SECONDS,
    Limits,
    View,
    decide,
    decide_follower,
)

START = 1_000_000.0
HOUR = 3600.0
TEN_HOURS = Limits(started=START, deadline=START + 10 * HOUR)
TRAINING = View(now=START, phase="training", last_client=START)


def at(seconds: float, view: View = TRAINING, **changes: object) -> View:
    return replace(view, now=START + seconds, **changes)  # type: ignore[arg-type]


def kind(limits: Limits, view: View) -> str:
    return decide(limits, view).kind


def test_without_limits_a_training_goes_on() -> None:
    assert kind(Limits(started=START), at(1000 * HOUR)) == "none"


def test_a_checkpoint_is_saved_before_the_deadline() -> None:
    assert kind(TEN_HOURS, at(9.74 * HOUR)) == "none"
    assert kind(TEN_HOURS, at(9.76 * HOUR)) == "stop"


@pytest.mark.parametrize("phase", ["waiting", "training", "stopping", "done", "failed"])
def test_at_the_deadline_the_machine_goes_in_every_phase(phase: str) -> None:
    assert kind(TEN_HOURS, at(10 * HOUR, phase=phase)) == "remove"


def test_the_cost_limit_is_a_deadline() -> None:
    limits = Limits(started=START, price_per_hour=20.0, max_cost=50.0)
    assert limits.end() == (START + 2.5 * HOUR, "the cost limit of 50.00 USD is reached")
    assert limits.cost(START + HOUR) == 20.0


def test_the_earlier_of_two_limits_counts() -> None:
    limits = replace(TEN_HOURS, price_per_hour=20.0, max_cost=50.0)
    assert limits.end() == (START + 2.5 * HOUR, "the cost limit of 50.00 USD is reached")


def test_a_cost_limit_without_a_price_is_none() -> None:
    assert Limits(started=START, max_cost=50.0).end() is None


def test_a_lost_client_stops_a_training_that_needs_it() -> None:
    limits = Limits(started=START, lost_client=600.0)
    assert kind(limits, at(599)) == "none"
    assert kind(limits, at(600)) == "stop"
    assert kind(limits, at(600, last_client=START + 500)) == "none"


def test_a_detached_training_needs_no_client() -> None:
    assert kind(Limits(started=START), at(100 * HOUR)) == "none"


@pytest.mark.parametrize("phase", ["waiting", "uploading"])
def test_a_job_that_nobody_starts_is_never_detached(phase: str) -> None:
    assert kind(Limits(started=START), at(UNSTARTED_SECONDS, phase=phase)) == "stop"


def test_what_is_stopping_is_not_asked_again() -> None:
    limits = Limits(started=START, lost_client=1.0)
    assert kind(limits, at(100, phase="stopping")) == "none"


def test_results_can_be_fetched_until_the_grace_is_over() -> None:
    limits = Limits(started=START, grace=900.0)
    ended = at(0, phase="done", ended_at=START)
    assert kind(limits, at(899, ended)) == "none"
    assert kind(limits, at(900, ended)) == "remove"


def test_a_release_ends_the_grace() -> None:
    ended = at(0, phase="done", ended_at=START, released=True)
    assert kind(Limits(started=START), at(1, ended)) == "remove"


def test_a_release_of_a_training_saves_first() -> None:
    assert kind(Limits(started=START), at(1, released=True)) == "stop"


def test_the_grace_ends_with_the_deadline() -> None:
    ended = at(0, phase="stopped", ended_at=START + 9.9 * HOUR)
    assert kind(TEN_HOURS, at(10 * HOUR, ended)) == "remove"


def follower(limits: Limits, now: float, silent: float, *, ended: bool = False) -> str:
    return decide_follower(limits, now=START + now, leader_silent=silent, ended=ended).kind


def test_a_follower_stays_while_node_0_lives() -> None:
    assert follower(TEN_HOURS, 11 * HOUR, 1.0) == "none"


def test_a_follower_goes_when_node_0_is_silent_past_the_deadline() -> None:
    late = 10 * HOUR + LATE_SECONDS
    assert follower(TEN_HOURS, late - 1, LATE_SECONDS) == "none"
    assert follower(TEN_HOURS, late, LATE_SECONDS) == "remove"


def test_a_follower_goes_when_the_job_ended_and_node_0_is_gone() -> None:
    assert follower(Limits(started=START), HOUR, LATE_SECONDS, ended=True) == "remove"
    assert follower(Limits(started=START), HOUR, 1.0, ended=True) == "none"


def test_a_follower_of_a_detached_job_outlives_a_silent_node_0() -> None:
    assert follower(Limits(started=START), HOUR, 2 * HOUR) == "none"
    assert follower(Limits(started=START, lost_client=60.0), HOUR, 2 * HOUR) == "remove"
