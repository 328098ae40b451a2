"""Checks of a configuration that need the model's tokenizer: the end of a turn, and the date."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from multitask.errors import MultitaskError
from multitask.runners.finding import Finding
from multitask.scoring.chat import is_dated
from multitask.scoring.encode import turn_end


def check_template(config: Mapping[str, Any], tokenizer: Any, root: Path) -> Iterator[Finding]:
    """Check how a configuration renders a conversation.

    Args:
        config: The content of axolotl.yaml.
        tokenizer: The model's own; changed as Axolotl would change it.
        root: The run directory, which a template's file may lie in.
    """
    template = template_text(config, tokenizer, root)
    if template is None:
        return
    tokenizer.chat_template = template
    special = config.get("special_tokens")
    vocabulary = tokenizer.get_vocab()
    for name, token in (special if isinstance(special, Mapping) else {}).items():
        if token not in vocabulary:
            yield Finding(
                f"{token!r} is not in the vocabulary: the embedding would gain a row at random"
                + (", which an adapter neither trains nor saves" if config.get("adapter") else ""),
                f"special_tokens.{name}",
                f"use one of the tokenizer's own, such as {tokenizer.eos_token}",
            )
            return
        setattr(tokenizer, name, token)
    if is_dated(tokenizer):
        yield Finding(
            "the chat template shows the date of the day: training, evaluation and a restart after "
            "midnight would use other prompts",
            "chat_template_jinja" if config.get("chat_template_jinja") else "chat_template",
            "write a fixed date into a copy of the template, and name it as chat_template_jinja",
        )
    try:
        end = turn_end(tokenizer)
    except MultitaskError as error:
        yield Finding(str(error), "chat_template", "use another template")
        return
    if end is None:
        yield Finding(
            "the chat template has no token that ends an answer, so the model never learns to stop",
            "chat_template",
            "set `templates: {format: alpaca}` in the spec, or use a template that writes "
            f"{tokenizer.eos_token or 'an eos token'} after an answer",
        )
        return
    given = config.get("eot_tokens")
    trained = given if isinstance(given, list) else [tokenizer.eos_token]
    if end not in trained:
        # axolotl/prompt_strategies/chat_template.py, _validate_eot_and_eos_tokens: a warning there
        yield Finding(
            f"an answer ends with {end}, which Axolotl would not train: it trains "
            f"{', '.join(map(str, trained)) or 'none'}, and scoring counts {end}",
            "eot_tokens",
            f"set eot_tokens: [{end!r}]",
        )


def template_text(config: Mapping[str, Any], tokenizer: Any, root: Path) -> str | None:
    """The chat template that a configuration trains with; None where it cannot be known here."""
    name = str(config.get("chat_template") or "tokenizer_default")
    own = config.get("chat_template_jinja")
    if own:
        file = root / str(own)
        try:
            return file.read_text(encoding="utf-8") if file.is_file() else str(own)
        except OSError:
            return str(own)
    if name.startswith("tokenizer_default") and isinstance(tokenizer.chat_template, str):
        return str(tokenizer.chat_template)
    name = name.removeprefix("tokenizer_default_fallback_")
    from importlib.util import find_spec

    found = find_spec("axolotl")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "utils" / "chat_templates" / "templates"
    shipped = folder / f"{name}.jinja"
    return shipped.read_text(encoding="utf-8") if shipped.is_file() else None
