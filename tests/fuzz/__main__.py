"""The whole fuzzer: all kinds of cases on some processes, counted."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz.harness import Make, Outcome, limit_memory, run_case, warm_up
from tests.fuzz.runs import base_run, make_damaged
from tests.fuzz.specs import make_spec
from tests.fuzz.tables import make_table
from tests.fuzz.templates import make_template

COUNTS = {"spec": 10_000, "template": 500, "run": 500, "data": 200}
SORTS = ("done", "refused", "failed", "traceback", "hang", "partial", "mute")
CHUNK = 25
WALL_SECONDS = 60.0


def makers(base: Path | None) -> dict[str, Make]:
    found: dict[str, Make] = {"spec": make_spec, "template": make_template, "data": make_table}
    if base is not None:
        found["run"] = make_damaged(base)
    return found


def work(kind: str, numbers: list[int], base: Path | None, pipe: Any) -> None:
    """Run some cases in a process of its own, which a case may bring down."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    limit_memory()
    make = makers(base)[kind]
    for number in numbers:
        pipe.send((number, None))
        pipe.send((number, run_case(kind, number, make)))
    pipe.send((-1, None))


class Worker:
    """A process with a chunk of cases; what it dies of or sticks in is a hang of that case."""

    def __init__(self, kind: str, numbers: list[int], base: Path | None) -> None:
        self.kind, self.numbers, self.base = kind, numbers, base
        self.start()

    def start(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe(duplex=False)
        arguments = (self.kind, self.numbers, self.base, theirs)
        self.process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
        self.process.start()
        theirs.close()
        self.last, self.since = -1, time.monotonic()

    def poll(self) -> list[tuple[int, Outcome]]:
        """What has come; empty numbers mean that it is done."""
        found = []
        try:
            while self.pipe.poll(0.02):
                number, outcome = self.pipe.recv()
                self.since = time.monotonic()
                if number < 0:
                    self.numbers = []
                    self.process.join()
                    return found
                self.last = number
                if outcome is not None:
                    self.numbers = self.numbers[self.numbers.index(number) + 1 :]
                    found.append((number, outcome))
        except EOFError:
            found += self.lost(f"the process died ({self.process.exitcode})")
        if self.numbers and time.monotonic() - self.since > WALL_SECONDS:
            self.process.kill()
            found += self.lost("no end in sight")
        return found

    def lost(self, why: str) -> list[tuple[int, Outcome]]:
        self.process.join()
        number = self.numbers[0]
        self.numbers = self.numbers[1:]
        if self.numbers:
            self.start()
        return [(number, Outcome("hang", why))]


def run_all(
    chunks: list[tuple[str, list[int]]], base: Path | None, jobs: int
) -> list[tuple[str, int, Outcome]]:
    found: list[tuple[str, int, Outcome]] = []
    waiting, workers = list(reversed(chunks)), []
    while waiting or workers:
        while waiting and len(workers) < jobs:
            workers.append(Worker(*waiting.pop(), base))
        for worker in workers:
            found += [(worker.kind, number, outcome) for number, outcome in worker.poll()]
        workers = [worker for worker in workers if worker.numbers]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", nargs=2, action="append", metavar=("KIND", "N"))
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--base", type=Path, help="a folder for the run that is damaged; kept")
    options = parser.parse_args()
    wanted = {kind: int(n) for kind, n in options.kind} if options.kind else COUNTS
    with tempfile.TemporaryDirectory() as temporary:
        base = None
        if "run" in wanted:
            base = options.base or Path(temporary) / "base"
            if not (base / "run").is_dir():
                base.mkdir(parents=True, exist_ok=True)
                # In a process of its own: threads of torch do not survive the forks below.
                process = multiprocessing.get_context("spawn").Process(
                    target=base_run, args=(base,)
                )
                process.start()
                process.join()
        warm_up()
        start = time.monotonic()
        chunks = [
            (kind, list(range(at, min(at + CHUNK, options.first + count))))
            for kind, count in wanted.items()
            for at in range(options.first, options.first + count, CHUNK)
        ]
        found = run_all(chunks, base, options.jobs)
    show(found, wanted, time.monotonic() - start)
    return int(any(not outcome.good for _, _, outcome in found))


def show(found: list[tuple[str, int, Outcome]], wanted: dict[str, int], seconds: float) -> None:
    print("| cases | " + " | ".join(SORTS) + " |")
    print("| --- |" + " ---: |" * len(SORTS))
    for kind in wanted:
        sorts = Counter(outcome.sort for k, _, outcome in found if k == kind)
        print(
            f"| {sum(sorts.values()):,} × {kind} | "
            + " | ".join(str(sorts[s]) for s in SORTS)
            + " |"
        )
    print(f"\n{seconds:.0f} s")
    bad: dict[tuple[str, str, str], list[int]] = {}
    for kind, number, outcome in found:
        if not outcome.good:
            bad.setdefault((kind, outcome.sort, outcome.what), []).append(number)
    for (kind, sort, what), numbers in sorted(bad.items(), key=lambda entry: -len(entry[1])):
        print(
            f"{len(numbers):5} {kind} {sort}: {what}  [{', '.join(map(str, sorted(numbers)[:3]))}]"
        )


if __name__ == "__main__":
    sys.exit(main())
