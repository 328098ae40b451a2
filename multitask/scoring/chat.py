"""Chat templates: what ends a turn, and what must not change from one day to the next."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from multitask.errors import InputError
from multitask.models import ModelInfo
from multitask.scoring.encode import turn_end

TEMPLATE_FILE = "chat_template.jinja"

# The day that Meta's own templates take where they have no clock. One day for all runs, so that
# what was trained in different weeks is asked alike.
_DAY = datetime(2024, 7, 26, 12)  # noqa: DTZ001 (templates show a day, in no time zone)
_CALL = re.compile(r"strftime_now\(\s*(?P<quote>['\"])(?P<format>[^'\"]*)(?P=quote)\s*\)")
_TEST = re.compile(r"strftime_now\s+is\s+(?P<no>not\s+)?defined")


def freeze_date(template: str) -> str:
    """Put a fixed day in place of today's.

    A template asks for the date by ``strftime_now``, the only clock that transformers gives it
    (transformers/utils/chat_template_utils.py). Training on one day and scoring on the next would
    use other prompts, and a restart after midnight other rows.

    Raises:
        InputError: It uses the clock in another way than by a call with a format.
    """
    frozen = _TEST.sub(lambda found: "false" if found["no"] else "true", template)
    frozen = _CALL.sub(lambda found: repr(_DAY.strftime(found["format"])), frozen)
    if "strftime_now" in frozen:
        raise InputError(
            "the chat template shows the date of the day in a way that cannot be frozen",
            where="strftime_now in the chat template",
            fix="copy the template, write a fixed date into it, and name the file in the spec's "
            "`axolotl`: `chat_template: jinja`, `chat_template_jinja: FILE`",
        )
    return frozen


def freeze_tokenizer(tokenizer: Any) -> None:
    """Freeze the date in a tokenizer's chat template, in memory."""
    template = tokenizer.chat_template
    if isinstance(template, str) and "strftime_now" in template:
        tokenizer.chat_template = freeze_date(template)


def is_dated(tokenizer: Any) -> bool:
    """Whether a row's text under a tokenizer's chat template depends on the day."""
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    days = [datetime(2001, 2, 3), datetime(2012, 11, 10)]  # noqa: DTZ001
    texts = {
        # An argument of the rendering wins over the environment's global of that name.
        tokenizer.apply_chat_template(messages, tokenize=False, strftime_now=day.strftime)
        for day in days
    }
    return len(texts) > 1


def settled(info: ModelInfo, tokenizer: Any | None, root: Path) -> ModelInfo:
    """What is known of a model, once its tokenizer has been looked at.

    A template that shows the date is copied to the run directory ``root`` with a fixed one; where
    the tokenizer is not on this machine, the plugin freezes the date when training starts.
    """
    if tokenizer is None or info.chat_template != "tokenizer_default":
        return info
    for name, token in info.special_tokens.items():
        setattr(tokenizer, name, token)
    if is_dated(tokenizer):
        freeze_tokenizer(tokenizer)
        (root / TEMPLATE_FILE).write_text(tokenizer.chat_template, encoding="utf-8")
        info = replace(info, chat_template="jinja")
    end = turn_end(tokenizer)
    if end is not None and end not in (*info.eot_tokens, tokenizer.eos_token):
        info = replace(info, eot_tokens=(*info.eot_tokens, end))
    return info
