"""Tokens of prompts and answers equal those of the conversation that training renders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multitask.errors import MultitaskError
from multitask.scoring.encode import Encoder

transformers = pytest.importorskip("transformers")


def test_prompt_and_answer_are_the_conversation(toy: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(toy)
    encoder = Encoder(tokenizer)
    for prompt in ("where is my card?", "naïve “quotes”\nand a line", "x"):
        encoded = encoder.encode(prompt, ["card_arrival", "card", "reverted_card_payment?"])
        for text, answer in zip(
            ["card_arrival", "card", "reverted_card_payment?"], encoded.answers, strict=True
        ):
            assert encoded.prompt + answer == encoder.conversation(prompt, text)
            assert answer[-1] == tokenizer.eos_token_id


def test_a_tokenizer_without_chat_template_is_refused(toy: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(toy)
    tokenizer.chat_template = None
    with pytest.raises(MultitaskError, match="no chat template"):
        Encoder(tokenizer)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        # The generation prompt is not how the answered turn begins.
        (
            "{% for m in messages %}{{ m.content }};{% endfor %}{{ '>' if add_generation_prompt }}",
            "renders a prompt differently",
        ),
        # Nothing separates the prompt from the answer, so that tokens merge over the border.
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "merges the prompt's end"),
    ],
)
def test_a_template_that_cannot_be_scored_is_refused(
    toy: Path, template: str, expected: str
) -> None:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(toy)
    tokenizer.chat_template = template
    with pytest.raises(MultitaskError, match=expected):
        Encoder(tokenizer).encode("lost car", ["d_arrival"])


def test_what_follows_the_end_of_the_turn_is_not_scored(toy: Path) -> None:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(toy)
    tokenizer.chat_template += "\n"
    encoded = Encoder(tokenizer).encode("x", ["card"])
    assert encoded.answers[0][-1] == tokenizer.eos_token_id
