"""What a training engine must give: the seam between a run and whoever trains it.

An engine is a folder of this package whose module ``runner`` has an object ``RUNNER``;
:mod:`multitask.runners` finds it there. Nothing outside that folder names the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from multitask.checks import Check

if TYPE_CHECKING:
    from multitask.models import ModelInfo
    from multitask.planning.setup import Setup
    from multitask.run import Run

Validate = Callable[["Run", "Setup"], None]
"""Asks the engine itself about a run's files; raises InputError with what it refuses."""


class Runner(Protocol):
    """A training engine.

    Its process announces itself and its progress by our events alone, never by its log: it runs
    ``announce_plugin`` of :mod:`multitask.training.attempts` before it loads the model, and trains
    with :mod:`multitask.callbacks`, which write ``RUN/logs/trainer.jsonl`` and the checkpoints'
    markers. :meth:`require` checks that its file asks for that.

    Attributes:
        name: For messages.
        file: Its configuration's name in a run directory; paths in it are relative to that.
        module: What accelerate and torchrun start (``-m``), with the file as first argument.
        packages: Installed packages whose versions must agree on all nodes of a training.
        variables: Environment variables that its process is started with.
    """

    name: str
    file: str
    module: str
    packages: Sequence[str]
    variables: Mapping[str, str]

    def trains(self, model: ModelInfo) -> bool:
        """Whether it is the engine for models of this architecture."""

    def refuse(self, setup: Setup) -> None:
        """End a setup that it cannot train.

        Raises:
            InputError: The method, sharding or precision is none of its own; with the reason.
        """

    def config(self, setup: Setup) -> dict[str, Any]:
        """The content of its file."""

    def replaced(self, setup: Setup) -> tuple[str, ...]:
        """Keys of ours that the user's own keys for it replace."""

    def files(self, setup: Setup) -> dict[str, str]:
        """Its file, ``accelerate.yaml`` and ``deepspeed.json`` where needed: names and texts."""

    def check(self, setup: Setup, config: Mapping[str, Any] | None = None) -> list[Check]:
        """Check a configuration for what trains and is wrong, without the engine installed.

        Args:
            setup: The run's.
            config: The content of its file; default: what the setup gives.

        Returns:
            Findings; the place of each begins with a key of the file.
        """

    def check_template(
        self, config: Mapping[str, Any], tokenizer: Any, root: Path
    ) -> Iterable[Check]:
        """Check how it puts a conversation into tokens.

        Args:
            config: The content of its file.
            tokenizer: The model's own; may be changed.
            root: The run directory.
        """

    def installed(self) -> bool:
        """Whether it can be asked and started on this machine."""

    def validator(self) -> AbstractContextManager[Validate]:
        """What asks the engine itself, started ahead of other work since its import is slow."""

    def require(self, run: Run) -> dict[str, Any]:
        """Check at the start of a training that it can be started and will announce itself.

        Returns:
            The content of its file.

        Raises:
            InputError: It is not installed, or its file leaves our part out.
        """

    def resume(self, checkpoint: Path) -> list[str]:
        """Arguments after the file that make it go on from a checkpoint."""
