"""How patient a supervisor is."""

from __future__ import annotations

from dataclasses import dataclass

from multitask.errors import MultitaskError


@dataclass(frozen=True)
class Options:
    """Limits and times of a supervisor; all times are in seconds.

    Attributes:
        max_restarts: Failures in a row, without a new complete checkpoint between them, after
            which it gives up.
        accept_changes: Resume although the run changed since the checkpoint.
        backoff: Wait before the first restart; doubled for each further one in a row.
        longest_backoff: Upper bound of that wait.
        poll: Time between two looks at processes and files.
        beat: Time between two signs of life.
        dead: A node without a sign of life for so long counts as dead.
        patience: How long nodes wait for one that is dead or has not come yet.
        stop: How long a save may take after a request to stop, before processes are killed.
        stall: Time without a step, at least, after which a training counts as hung.
        pause: How long an evaluation or a save may take before it does.
    """

    max_restarts: int = 3
    accept_changes: bool = False
    backoff: float = 5.0
    longest_backoff: float = 300.0
    poll: float = 0.2
    beat: float = 5.0
    dead: float = 60.0
    patience: float = 1800.0
    stop: float = 900.0
    stall: float = 180.0
    pause: float = 900.0


class TrainingStopped(MultitaskError):  # noqa: N818  # it is no error of ours
    """Training was asked to stop and did; exit code 130, as after any interrupt."""

    exit_code = 130
