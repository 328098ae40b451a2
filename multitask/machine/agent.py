"""What every node of a job does: shows itself, answers checks, trains when told to."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from multitask.machine.checks import gather
from multitask.machine.child import Child
from multitask.machine.commands import Commands
from multitask.machine.exchange import Exchange, Order
from multitask.machine.logs import Log
from multitask.machine.settings import Place

_MOST_STARTS = 5


class Agent:
    """A node's part; :meth:`tick` is called again and again and never waits.

    Attributes:
        exchange: How the nodes talk.
        place: Where this one stands.
        training: The training that runs here.
        error: What the last one said at its end.
    """

    def __init__(
        self,
        exchange: Exchange,
        place: Place,
        commands: Commands,
        log: Log,
        environ: Mapping[str, str],
    ) -> None:
        """Come up: other nodes see this one from now on."""
        self.exchange, self.place = exchange, place
        self.training: Child | None = None
        self.error = ""
        self._commands, self._log, self._environ = commands, log, environ
        self._checked = 0
        self._starts: dict[int, int] = {}
        self._check: threading.Thread | None = None
        exchange.greet(place.node)
        exchange.beat(place.node)

    def tick(self) -> Order | None:
        """Do what there is to do; the newest order."""
        node = self.place.node
        self.exchange.beat(node)
        order = self.exchange.order()
        if order is None:
            return None
        if order.action == "check" and self._checked != order.number:
            self._begin_check(order)
        if order.action == "train":
            self._train(order)
        if order.action == "end" and self.training is not None:
            self.training.stop()
            if self.training.poll() is not None:
                self.training = None
        return order

    def _begin_check(self, order: Order) -> None:
        if self._check is not None and self._check.is_alive():
            return
        self._checked = order.number
        # Hashing may take minutes; signs of life and timers go on meanwhile.
        self._check = threading.Thread(target=self._answer, args=[order], daemon=True)
        self._check.start()

    def _answer(self, order: Order) -> None:
        try:
            facts = gather(self.exchange.folder.parent, self.exchange.greetings(self.place.nodes))
            self.exchange.answer(self.place.node, order.number, facts.record())
        except OSError as error:
            self._log.say(f"this node cannot be checked: {error}")

    def _train(self, order: Order) -> None:
        node = self.place.node
        if self.exchange.end_of(node, order.number) is not None:
            return
        if self.training is None:
            self._starts[order.number] = self._starts.get(order.number, 0) + 1
            command, more = self._commands.train(self.place)
            self.training = Child("training", command, self._log, self._environ, more)
            return
        code = self.training.poll()
        if code is None:
            return
        killed = code < 0 and not self.training.asked
        if killed and self._starts.get(order.number, 0) < _MOST_STARTS:
            self._log.say(f"the training's supervisor was killed by signal {-code}; again")
            self.training.kill()
            self.training = None
            return
        self.error = self.training.error()
        self.training = None
        self.exchange.ended(node, order.number, code)
        self._log.say(f"the training ended here with exit code {code}")
