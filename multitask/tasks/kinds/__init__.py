"""The kinds of tasks: one module each, and one line here."""

from __future__ import annotations

from multitask.tasks.kinds.base import Kind
from multitask.tasks.kinds.classification import Classification
from multitask.tasks.kinds.generation import Generation
from multitask.tasks.kinds.multi_label import MultiLabel
from multitask.tasks.kinds.multiple_choice import MultipleChoice
from multitask.tasks.kinds.rating import Rating

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Classification(),
        MultipleChoice(),
        Generation(),
        MultiLabel(),
        Rating(),
    )
}
"""Every kind by its name."""


def kind_named(name: object) -> Kind:
    """The kind of a name, or that is given.

    Raises:
        ValueError: There is none.
    """
    from multitask.errors import did_you_mean

    found = name if isinstance(name, Kind) else KINDS.get(str(name))
    if found is None:
        raise ValueError(f"unknown kind; {did_you_mean(str(name), KINDS)}")
    return found


__all__ = ["KINDS", "Kind", "kind_named"]
