"""The chat template of a training: the same on every day."""

from __future__ import annotations

from typing import Any

from multitask.run import Run, write_atomic
from multitask.scoring.chat import TEMPLATE_FILE, freeze_date


def freeze_template(cfg: Any, run: Run) -> None:
    """Let Axolotl train with a copy of a template that shows the date, with a fixed one.

    ``build-config`` has done so where it had the tokenizer. Axolotl saves the copy with the model,
    so that scoring and whoever loads the model use it too.

    Args:
        cfg: Axolotl's configuration before validation; changed in place.
        run: The run, which keeps the copy.

    Raises:
        InputError: The template's date cannot be frozen.
    """
    template = _template(cfg)
    if template is None or "strftime_now" not in template:
        return
    path = run.root / TEMPLATE_FILE
    frozen = freeze_date(template)
    # Every process of every node writes the same.
    if not path.is_file() or path.read_text(encoding="utf-8") != frozen:
        write_atomic(path, frozen)
    cfg["chat_template"], cfg["chat_template_jinja"] = "jinja", str(path)


def _template(cfg: Any) -> str | None:
    """The template's text; None where it cannot be had, which Axolotl will say itself."""
    from axolotl.utils.chat_templates import get_chat_template
    from transformers import AutoTokenizer

    choice = cfg.get("chat_template") or "tokenizer_default"
    try:
        tokenizer = None
        if choice.startswith("tokenizer_default"):
            tokenizer = AutoTokenizer.from_pretrained(
                cfg.get("tokenizer_config") or cfg["base_model"],
                trust_remote_code=bool(cfg.get("trust_remote_code")),
            )
        return str(get_chat_template(choice, cfg.get("chat_template_jinja"), tokenizer))
    except (OSError, ValueError, KeyError, AttributeError, ImportError):
        return None
