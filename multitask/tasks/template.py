"""Templates: a prompt and a response in Jinja, rendered in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, TemplateError, UndefinedError
from jinja2 import Template as JinjaTemplate
from jinja2.sandbox import ImmutableSandboxedEnvironment

from multitask.errors import InputError


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters["letter"] = letter
    return environment


def letter(index: int) -> str:
    """The option letter of a position: 0 is A."""
    return chr(ord("A") + index)


@dataclass(frozen=True)
class Template:
    """One phrasing of a task.

    Attributes:
        name: Unique within its task; recorded with every row.
        prompt: Jinja source of the user's message.
        response: Jinja source of the assistant's message.
    """

    name: str
    prompt: str
    response: str
    _prompt: JinjaTemplate = field(init=False, repr=False, compare=False)
    _response: JinjaTemplate = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for part in ("prompt", "response"):
            source = getattr(self, part)
            try:
                compiled = _environment().from_string(source)
            except TemplateError as error:
                raise InputError(
                    f"the {part} is not valid Jinja: {error}", where=f"template {self.name!r}"
                ) from None
            object.__setattr__(self, f"_{part}", compiled)

    def render_prompt(self, fields: Mapping[str, Any], *, row: str) -> str:
        """The user's message for one row.

        Args:
            fields: Variables of the template.
            row: The row's id, for messages.

        Raises:
            InputError: The template uses a variable that the row does not have.
        """
        return self._render(self._prompt, fields, row)

    def render_response(self, fields: Mapping[str, Any], *, row: str) -> str:
        """The assistant's message for one row; raises as :meth:`render_prompt`."""
        return self._render(self._response, fields, row)

    def _render(self, compiled: JinjaTemplate, fields: Mapping[str, Any], row: str) -> str:
        try:
            return compiled.render(fields).strip()
        except UndefinedError as error:
            raise InputError(
                f"{error.message}",
                where=f"template {self.name!r}, row {row!r}",
                fix=f"use one of: {', '.join(sorted(fields))}",
            ) from None
        except TemplateError as error:
            raise InputError(
                f"cannot be rendered: {error}", where=f"template {self.name!r}, row {row!r}"
            ) from None
