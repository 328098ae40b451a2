"""Token sequences of prompts and answers, exactly as training saw them.

Training renders a whole conversation with the chat template and learns the tokens of the
assistant's turn. So an answer's tokens are what the rendered conversation has after the rendered
prompt, up to and with the token that ends the turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from multitask.errors import MultitaskError

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Encoded:
    """A prompt and its possible answers in tokens.

    Attributes:
        prompt: Tokens up to where the assistant begins to answer.
        answers: Tokens of each label's answer, the end of the turn included.
    """

    prompt: Tokens
    answers: tuple[Tokens, ...]


class Encoder:
    """Encodes prompts with a tokenizer's chat template."""

    def __init__(self, tokenizer: Any) -> None:
        """Use ``tokenizer``; it must have a chat template.

        Raises:
            MultitaskError: It has none.
        """
        if not tokenizer.chat_template:
            raise MultitaskError(
                "the tokenizer has no chat template, so a prompt cannot be put to the model",
                where=tokenizer.name_or_path,
                fix="use an instruct model, or save a chat template with the tokenizer",
            )
        self._tokenizer = tokenizer
        self._answers: dict[tuple[str, ...], tuple[Tokens, ...]] = {}

    def encode(self, prompt: str, responses: Sequence[str]) -> Encoded:
        """Encode a user's message and the answers to it.

        Args:
            prompt: The user's message.
            responses: One assistant's message per label, all different.
        """
        user = [{"role": "user", "content": prompt}]
        head = self._render(user, generation=True)
        key = tuple(responses)
        if key not in self._answers:
            # An answer's tokens depend on the turn's opening alone, not on the words before it.
            self._answers[key] = tuple(self._answer(user, head, text) for text in responses)
        return Encoded(prompt=self._tokens(head), answers=self._answers[key])

    def prompt(self, text: str) -> Tokens:
        """Tokens of a user's message, up to where the assistant begins to answer."""
        return self._tokens(self._render([{"role": "user", "content": text}], generation=True))

    def conversation(self, prompt: str, response: str) -> Tokens:
        """Tokens of a whole conversation, as training sees them."""
        messages = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": response},
        ]
        return self._tokens(self._render(messages, generation=False))

    def _answer(self, user: list[dict[str, str]], head: str, response: str) -> Tokens:
        whole = self._render([*user, {"role": "assistant", "content": response}], generation=False)
        if not whole.startswith(head):
            raise MultitaskError(
                "the chat template renders a prompt differently once it is answered",
                where=self._tokenizer.name_or_path,
                fix="use a template whose generation prompt is the beginning of the answer's turn",
            )
        prompt, tokens = self._tokens(head), self._tokens(whole)
        if tokens[: len(prompt)] != prompt:
            raise MultitaskError(
                f"the tokenizer merges the prompt's end with the answer {response!r}",
                where=self._tokenizer.name_or_path,
                fix="use a chat template that separates them by a special token or a line break",
            )
        answer = self._until_end(tokens[len(prompt) :])
        if not answer:
            raise MultitaskError(f"the answer {response!r} has no tokens")
        return answer

    def _until_end(self, tokens: Tokens) -> Tokens:
        """Cut what a template writes after the end of the turn, such as a line break."""
        special = set(self._tokenizer.all_special_ids)
        last = max((i for i, token in enumerate(tokens) if token in special), default=None)
        return tokens if last is None else tokens[: last + 1]

    def _render(self, messages: list[dict[str, str]], *, generation: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation
            )
        )

    def _tokens(self, text: str) -> Tokens:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
