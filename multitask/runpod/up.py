"""``multitask runpod up``: from a spec to results, and machines that are removed in any case."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from multitask.errors import InputError, MultitaskError
from multitask.run import Run
from multitask.runpod.before import adopt, check_variables, data_centers, existing
from multitask.runpod.built import build_for, look
from multitask.runpod.bundle import Bundle, check_sendable, make_bundle
from multitask.runpod.client import RunPod
from multitask.runpod.follow import Display, Ending
from multitask.runpod.machines import (
    DearerError,
    HalfCreatedError,
    StillBilledError,
    StoppedBySignalError,
)
from multitask.runpod.offers import Offer, offers, shapes_for, usable
from multitask.runpod.options import Options
from multitask.runpod.problems import NoCapacityError, ServiceError
from multitask.runpod.record import Record, RecordFile
from multitask.runpod.rental import Rental, new_record
from multitask.runpod.signals import Signals
from multitask.runpod.transfer import Progress
from multitask.spec import Spec

Ask = Callable[[list[Offer]], bool]
"""Shows a plan and asks whether money may be spent."""


@dataclass(frozen=True)
class Surroundings:
    """What ``up`` works with.

    Attributes:
        service: The account.
        ask: Asks before money is spent.
        say: Prints a line.
        display: Makes what shows a job.
        progress: Shows transfers.
        signals: Counts requests to stop.
    """

    service: RunPod
    ask: Ask
    say: Callable[[str], None]
    display: Callable[[Record], Display]
    progress: Progress
    signals: Signals


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        record: The last machines.
        ending: How the job ended; None when it was left running.
        files: What was downloaded into the run directory.
    """

    record: Record
    ending: Ending | None
    files: tuple[str, ...] = ()


def quote(
    spec: Spec,
    out: Path,
    options: Options,
    *,
    service: RunPod | None,
    say: Callable[[str], None],
) -> list[Offer]:
    """Estimate the run on every shape that would be tried; rents nothing.

    Args:
        spec: The user's choices.
        out: The run directory, whether it exists or not.
        options: Shapes and prices.
        service: For today's prices; None: those of ``configs/clusters``.
        say: Told what is being done.

    Raises:
        InputError: The spec or its data is wrong, or RunPod has no such machines.
    """
    model, workload = look(spec, out, say)
    prices = None
    if service is not None and options.price is None:
        prices = service.gpu_prices()
    shapes = shapes_for(spec, options.shapes)
    return offers(spec, model, workload, shapes, prices=prices, price=options.price)


def up(spec: Spec, out: Path, options: Options, around: Surroundings) -> Outcome:
    """Rent, train, fetch, remove.

    A run whose machines exist already is taken up where it is.

    Args:
        spec: The user's choices.
        out: The run directory; built when it is not there.
        options: How it is rented.
        around: The account, the terminal.

    Raises:
        InputError: Before anything is spent.
        MultitaskError: The job failed, or no machine was to be had; nothing is billed then.
        StillBilledError: A removal could not be confirmed.
    """
    return _Up(spec, out, options, around).run()


class _Up:
    """One call of :func:`up`."""

    def __init__(self, spec: Spec, out: Path, options: Options, around: Surroundings) -> None:
        self._spec, self._out, self._options, self._around = spec, out, options, around
        self._file = RecordFile(out)
        self._service = around.service
        self._spent = 0.0
        self._begun = time.time()
        self._resumes = False
        self._repriced: set[str] = set()
        self._max_cost: float | None = None

    def run(self) -> Outcome:
        there = existing(self._service, self._file, again=self._options.again)
        volume = self._options.volume if there is None else there.volume
        if volume is None and self._spec.hub is None:
            # Else the model would go with the machine.
            self._options = replace(self._options, download_model=True)
        plan = [] if there is not None else self._plan()
        # Until here Ctrl-C ends the program at once; from here on it is looked at between steps.
        with self._around.signals:
            return self._attach(there) if there is not None else self._new(plan)

    def _new(self, plan: list[Offer]) -> Outcome:
        failures = 0
        while True:
            rental, bundle = self._rent(plan)
            outcome = self._carry(rental, bundle)
            failures += 1
            if not self._worth_again(outcome, plan, failures):
                return self._finish(outcome)
            self._spent = rental.record.total()
            self._resumes = self._options.volume is not None
            self._around.say("renting again: the run goes on from its newest checkpoint")

    # --- before

    def _plan(self) -> list[Offer]:
        found = quote(
            self._spec, self._out, self._options, service=self._service, say=self._around.say
        )
        chosen = usable(found, max_cost=self._options.max_cost, volume=self._options.volume)
        first = chosen[0].setup
        if first is not None:
            check_variables(self._spec, first.model, self._options)
        check_sendable(self._spec, Run(self._out))
        self._centers = data_centers(self._service, self._options, chosen)
        if not self._around.ask(found):
            raise MultitaskError("nothing was rented, as you said")
        return chosen

    def _attach(self, record: Record) -> Outcome:
        self._around.say(f"found {record.name} ({record.kind} {record.id}): taking it up")
        bundle = make_bundle(Run(self._out))
        if bundle.sha256 != record.bundle:
            raise InputError(
                f"the run has changed since {record.name} was rented for it",
                where=self._out,
                fix=f"`multitask runpod down {self._out}` first, or undo the change",
            )
        rental = self._rental(record)
        started = record.state in ("started", "ended")
        try:
            if not record.primary:
                rental.wait()
        except BaseException:
            rental.remove()
            raise
        return self._finish(self._carry(rental, bundle, started=started))

    # --- renting

    def _rental(self, record: Record) -> Rental:
        around = self._around
        return Rental(
            self._service,
            record,
            self._file,
            self._options,
            around.signals,
            around.display,
            around.progress,
        )

    def _rent(self, plan: list[Offer]) -> tuple[Rental, Bundle]:
        """Rent the first shape of the plan that is to be had, and comes up whole.

        Raises:
            MultitaskError: None is; nothing is billed.
        """
        refusals: list[str] = []
        queue = list(plan)
        while queue:
            offer = queue.pop(0)
            try:
                return self._rent_one(offer)
            except NoCapacityError as error:
                refusals.append(f"{offer.shape}: {error.detail}")
            except HalfCreatedError as error:
                refusals.append(f"{offer.shape}: {error}")
            except DearerError as error:
                queue.insert(0, self._agreed(offer, error))
            if refusals and queue:
                self._around.say(f"{refusals[-1]}; trying {queue[0].shape}")
        raise MultitaskError(
            "no shape was to be had: " + "; ".join(refusals),
            fix="try again later, in another data center, or with other --shapes; where all say "
            "the same, it is the request that RunPod does not like. Nothing is billed",
        )

    def _rent_one(self, offer: Offer) -> tuple[Rental, Bundle]:
        self._stop_if_asked()
        run = build_for(self._spec, offer.shape, self._out, self._around.say)
        bundle = make_bundle(run)
        limit = offer.limit(self._options.max_cost)
        if limit is None:
            raise InputError("no limit is known", where="--max-cost", fix="give one")
        self._max_cost = limit
        self._require_rest(offer, limit)
        record = new_record(
            run,
            bundle,
            offer,
            self._options,
            max_cost=limit,
            spent=self._spent,
            begun=self._begun,
        )
        adopted = adopt(self._service, record, self._file)
        rental = self._rental(adopted or record)
        if adopted is None:
            self._create(rental, offer)
        try:
            rental.wait()
        except BaseException:
            rental.remove()
            self._spent += rental.record.cost()
            raise
        return rental, bundle

    def _require_rest(self, offer: Offer, limit: float) -> None:
        """Refuse a shape that what is left of the budget does not carry to the end.

        Raises:
            HalfCreatedError: It does not; the next may.
        """
        least = 2 * offer.reserve_usd
        if not self._resumes and offer.needed is not None:
            least = offer.needed
        left = limit - self._spent
        if self._spent and left < least:
            raise HalfCreatedError(
                f"${left:,.2f} of the limit of ${limit:,.2f} are left, and it needs ${least:,.2f}"
            )

    def _create(self, rental: Rental, offer: Offer) -> None:
        self._around.say(f"renting {offer.shape}: {offer.kind} {rental.record.name}")
        try:
            rental.create(offer, self._centers)
        except NoCapacityError:
            self._file.path.unlink(missing_ok=True)
            raise
        except ServiceError as error:
            if error.status in (401, 402, 403, 422, 429):  # refused: nothing was made
                self._file.path.unlink(missing_ok=True)
            else:
                rental.remove()
            raise
        except BaseException:
            rental.remove()
            raise

    def _agreed(self, offer: Offer, error: DearerError) -> Offer:
        """The offer at its real price, when that is within the budget and the user agrees."""
        if offer.shape in self._repriced:
            raise error
        self._repriced.add(offer.shape)
        dearer = offer.at_price(error.usd_per_hour, "as RunPod billed it a moment ago")
        usable([dearer], max_cost=self._options.max_cost, volume=self._options.volume)
        with self._around.signals.off():
            agreed = self._around.ask([dearer])
        if not agreed:
            raise error
        return dearer

    def _stop_if_asked(self) -> None:
        if self._around.signals.count:
            raise StoppedBySignalError("interrupted; nothing is billed")

    # --- with machines

    def _carry(self, rental: Rental, bundle: Bundle, *, started: bool = False) -> Outcome:
        """From a machine that answers to its removal."""
        try:
            if not started:
                rental.start(bundle)
            if self._options.detach:
                return Outcome(rental.record, None)
            ending = rental.follow()
            files: list[str] = []
            if ending.phase != "dead":
                wanted = self._options.download_model
                files = rental.fetch(bundle, self._out, model=wanted)
        except BaseException as error:
            self._remove_after(rental, error)
            raise
        if not rental.record.keep or ending.phase == "dead":
            rental.remove()
        return Outcome(rental.record, ending, tuple(files))

    def _remove_after(self, rental: Rental, error: BaseException) -> None:
        """Remove after an error; where that fails too, both are said."""
        try:
            rental.remove()
        except StillBilledError:
            self._around.say(f"error: {error}")
            raise

    def _worth_again(self, outcome: Outcome, plan: list[Offer], failures: int) -> bool:
        """Whether new machines may finish what dead ones began."""
        ending = outcome.ending
        if ending is None or ending.phase != "dead" or self._around.signals.count:
            return False
        # After a long silence the machine may have ended in good order.
        if ending.silence >= self._options.timing.lost_client:
            return False
        if failures > self._options.retries or self._max_cost is None:
            return False
        self._around.say(f"the machines are lost: {ending.why}")
        needed = plan[0].reserve_usd * 2
        if self._options.volume is None:
            needed = plan[0].needed or needed  # it begins anew
        return self._max_cost - outcome.record.total() > needed

    def _finish(self, outcome: Outcome) -> Outcome:
        ending = outcome.ending
        if ending is None or ending.phase == "done":
            return outcome
        kept = (
            f"checkpoints are on the volume {outcome.record.volume}"
            if outcome.record.volume
            else "checkpoints went with the machine, but for what is downloaded"
        )
        why = f": {ending.why}" if ending.why else ""
        fetched = f"{len(outcome.files)} files are in {self._out}; {kept}"
        if self._around.signals.count:
            raise StoppedBySignalError(f"stopped; nothing is billed. {fetched}")
        raise MultitaskError(
            f"the job is {ending.phase}{why}; {fetched}",
            where=outcome.record.name,
            fix="see logs/ in the run directory; the same command goes on from what is there",
        )
