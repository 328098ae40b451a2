"""Templates: a prompt and a response in Jinja, rendered in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jinja2 import Template as JinjaTemplate
from jinja2 import TemplateError, UndefinedError, nodes

from multitask.errors import InputError
from multitask.formatting import one_line
from multitask.tasks.sandbox import Sandbox, renew


@cache
def _environment() -> Sandbox:
    return Sandbox()


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
            except Exception as error:  # noqa: BLE001 (Jinja's, or Python's compiler's)
                raise InputError(
                    f"the {part} is not valid Jinja: {_said(error)}",
                    where=f"template {self.name!r}",
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

    def around_text(
        self, constants: Mapping[str, Any], names: tuple[str, ...], row_fields: tuple[str, ...]
    ) -> list[str] | None:
        """The words around the text, for rendering many prompts that differ in one text alone.

        Where every variable of a row is only ever put out as it is (``{{ text }}``, with no
        filter, condition or loop around it), all prompts are the same words around the text, and
        Jinja needs to run once instead of once per row.

        Args:
            constants: The variables that are the same for every row.
            names: The row's variables that hold the text.
            row_fields: All variables that differ from row to row.

        Returns:
            The pieces that ``text.join(pieces).strip()`` makes the prompt of, or None where Jinja
            must see every row.
        """
        tree = _environment().parse(self.prompt)
        plain = {
            id(child)
            for output in tree.iter_child_nodes()
            if isinstance(output, nodes.Output)
            for child in output.nodes
            if isinstance(child, nodes.Name)
        }
        used = [name for name in tree.find_all(nodes.Name) if name.name in row_fields]
        if any(id(name) not in plain or name.name not in names for name in used):
            return None
        mark = "\ue000\ue001\ue000"
        try:
            renew()
            rendered = self._prompt.render({**constants, **dict.fromkeys(names, mark)})
        except Exception:  # noqa: BLE001 (the ordinary way names the row in its message)
            return None
        return rendered.split(mark)

    def _render(self, compiled: JinjaTemplate, fields: Mapping[str, Any], row: str) -> str:
        try:
            renew()
            text = compiled.render(fields).strip()
            text.encode()
        except UndefinedError as error:
            raise InputError(
                f"{error.message}",
                where=f"template {self.name!r}, row {row!r}",
                fix=f"use one of: {', '.join(sorted(fields))}",
            ) from None
        except Exception as error:  # noqa: BLE001 (a template can raise whatever Python can)
            raise InputError(
                f"cannot be rendered: {_said(error)}", where=f"template {self.name!r}, row {row!r}"
            ) from None
        return text


def _said(error: Exception) -> str:
    """An exception in words; of Jinja's own errors the message says all."""
    words = one_line(error)
    known = isinstance(error, TemplateError)
    return words if known and words else f"{type(error).__name__}: {words}"
