"""A small draw of the fuzzer; ``make fuzz`` takes all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import makers
from tests.fuzz.harness import run_case, warm_up
from tests.fuzz.runs import base_run


@pytest.mark.parametrize(("kind", "count"), [("spec", 100), ("template", 60), ("data", 20)])
def test_bad_input_ends_in_one_message(kind: str, count: int) -> None:
    make = makers(None)[kind]
    outcomes = {number: run_case(kind, number, make) for number in range(count)}
    assert {number: outcome for number, outcome in outcomes.items() if not outcome.good} == {}


def test_damaged_runs_end_in_one_message(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    make = makers(base_run(tmp_path))["run"]
    warm_up()
    outcomes = {number: run_case("run", number, make) for number in range(20)}
    assert {number: outcome for number, outcome in outcomes.items() if not outcome.good} == {}
