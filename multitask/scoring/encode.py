"""Token sequences of prompts and answers, exactly as training saw them.

Training renders a whole conversation with the chat template and learns the tokens of the
assistant's turn. So an answer's tokens are what the rendered conversation has after the rendered
prompt, up to and with the token that ends the turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from multitask.errors import InputError, MultitaskError

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Encoded:
    """A prompt and its possible answers in tokens.

    Attributes:
        prompt: Tokens up to where the assistant begins to answer.
        answers: Tokens of each label's answer, the end of the turn included.
        dropped: Tokens of the prompt that were left out, because it was longer than the context.
    """

    prompt: Tokens
    answers: tuple[Tokens, ...]
    dropped: int = 0


class LabelEncoder(Protocol):
    """Turns prompts and responses into tokens; see `Encoder`."""

    def encode_all(
        self, prompts: Sequence[str], responses: Sequence[str], *, texts: Sequence[str] = ()
    ) -> list[Encoded]:
        """Encode prompts that share their possible responses."""

    def encode(
        self, prompt: str, responses: Sequence[str], *, text: str = "", repeats: bool = False
    ) -> Encoded:
        """Encode one prompt and the possible responses to it."""

    def prompt(self, text: str) -> Tokens:
        """Tokens of a prompt alone, for generation."""


class Encoder:
    """Encodes prompts with a tokenizer's chat template."""

    def __init__(self, tokenizer: Any, *, context: int | None = None) -> None:
        """Use ``tokenizer``; it must have a chat template.

        Args:
            tokenizer: A fast tokenizer of transformers.
            context: Most tokens that the model can read; longer prompts lose some. None: no limit.

        Raises:
            MultitaskError: The tokenizer has no chat template.
        """
        if not tokenizer.chat_template:
            raise MultitaskError(
                "the tokenizer has no chat template, so a prompt cannot be put to the model",
                where=tokenizer.name_or_path,
                fix="use an instruct model, or save a chat template with the tokenizer",
            )
        self._tokenizer = tokenizer
        self._context = context
        self._special = special_ids(tokenizer)
        self._opening = self._find_opening()
        self._answers: dict[str, Tokens] = {}
        self._sets: dict[tuple[str, ...], tuple[Tokens, ...]] = {}

    def encode(
        self, prompt: str, responses: Sequence[str], *, text: str = "", repeats: bool = False
    ) -> Encoded:
        """Encode a user's message and the answers to it.

        Args:
            prompt: The user's message.
            responses: One assistant's message per label.
            text: The part of the message that may be cut where it is too long for the context:
                its beginning goes. Default: what follows the chat template's own header.
            repeats: Responses of equal tokens are right, such as options that repeat a text.

        Raises:
            MultitaskError: A response has no tokens, two have the same, or the template does not
                keep prompt and answer apart.
        """
        head = self._heads([prompt])[0]
        answers = self._answers_to(prompt, head, tuple(responses), repeats=repeats)
        tokens = self._tokens(head)
        return self._fitted(tokens, answers, head, prompt, text)

    def encode_all(
        self, prompts: Sequence[str], responses: Sequence[str], *, texts: Sequence[str] = ()
    ) -> list[Encoded]:
        """Encode many messages that share their answers; as `encode`, but much faster.

        Args:
            prompts: The user's messages.
            responses: One assistant's message per label.
            texts: For each message, the part that may be cut; empty: see `encode`.
        """
        if not prompts:
            return []
        heads = self._heads(prompts)
        answers = self._answers_to(prompts[0], heads[0], tuple(responses), repeats=False)
        ids = self._tokenizer(heads, add_special_tokens=False)["input_ids"]
        every = texts or [""] * len(prompts)
        return [
            self._fitted(tuple(tokens), answers, head, prompt, text)
            for tokens, head, prompt, text in zip(ids, heads, prompts, every, strict=True)
        ]

    def prompt(self, text: str) -> Tokens:
        """Tokens of a user's message, up to where the assistant begins to answer."""
        return self._tokens(self._heads([text])[0])

    def conversation(self, prompt: str, response: str) -> Tokens:
        """Tokens of a whole conversation, as training sees them."""
        return self._tokens(self._whole(prompt, response))

    def _answers_to(
        self, prompt: str, head: str, responses: tuple[str, ...], *, repeats: bool
    ) -> tuple[Tokens, ...]:
        if responses in self._sets:
            return self._sets[responses]
        # An answer's tokens depend on the turn's opening alone, not on the words before it.
        new = [text for text in dict.fromkeys(responses) if text not in self._answers]
        if new:
            before, every = self._tokens(head), [self._whole(prompt, text) for text in new]
            ids = self._tokenizer(every, add_special_tokens=False)["input_ids"]
            for text, whole, tokens in zip(new, every, ids, strict=True):
                self._answers[text] = self._answer(head, before, text, whole, tuple(tokens))
        answers = tuple(self._answers[text] for text in responses)
        if not repeats:
            refuse_equal(responses, answers)
            self._sets[responses] = answers
        return answers

    def _answer(
        self, head: str, before: Tokens, response: str, whole: str, tokens: Tokens
    ) -> Tokens:
        if not whole.startswith(head):
            raise MultitaskError(
                "the chat template renders a prompt differently once it is answered",
                where=self._tokenizer.name_or_path,
                fix="use a template whose generation prompt is the beginning of the answer's turn",
            )
        if tokens[: len(before)] != before:
            raise MultitaskError(
                f"the tokenizer merges the prompt's end with the answer {response!r}",
                where=self._tokenizer.name_or_path,
                fix="use a chat template that separates them by a special token or a line break",
            )
        answer = self._until_end(tokens[len(before) :])
        if all(token in self._special for token in answer):
            raise MultitaskError(f"the answer {response!r} has no tokens")
        return answer

    def _until_end(self, tokens: Tokens) -> Tokens:
        """Cut what a template writes after the end of the turn: a line break, the text's end."""
        begun = False
        for place, token in enumerate(tokens):
            if token not in self._special:
                begun = True
            elif begun:
                return tokens[: place + 1]
        return tokens

    def _find_opening(self) -> str:
        """What a template writes before an answer and not in its generation prompt.

        Qwen 3 opens an answer with an empty thought. Training learns the answer alone
        (axolotl/prompt_strategies/chat_template.py, find_turn), so the opening is prompt.
        """
        probe = "probe"
        (head,) = self._rendered_heads(["x"])
        _, found, rest = self._whole("x", probe).partition(head)
        opening = rest[: rest.rfind(probe)] if found and probe in rest else ""
        return opening if opening.strip() else ""

    def _fitted(
        self, tokens: Tokens, answers: tuple[Tokens, ...], head: str, prompt: str, text: str
    ) -> Encoded:
        if self._context is None or len(tokens) + max(map(len, answers)) <= self._context:
            return Encoded(tokens, answers)
        room = self._context - max(map(len, answers))
        offsets = self._tokenizer(head, add_special_tokens=False, return_offsets_mapping=True)
        begins = [begin for begin, _ in offsets["offset_mapping"]]
        content = _token_at(begins, max(head.find(prompt.strip()), 0))
        if room <= content:
            raise InputError(
                f"the context of {self._context} tokens has no room for a prompt",
                fix="shorten the labels, or the chat template's system message",
            )
        place = head.rfind(text) if text else -1
        first, last = content, len(tokens)
        if place >= 0:
            first, last = _token_at(begins, place), _token_at(begins, place + len(text))
        # First the text goes, from its beginning; then what stands before the prompt's end.
        cut = min(len(tokens) - room, last - first)
        kept = tokens[:first] + tokens[first + cut :]
        if len(kept) > room:
            kept = kept[:content] + kept[len(kept) - room + content :]
        return Encoded(kept, answers, dropped=len(tokens) - len(kept))

    def _heads(self, prompts: Sequence[str]) -> list[str]:
        return [head + self._opening for head in self._rendered_heads(prompts)]

    def _rendered_heads(self, prompts: Sequence[str]) -> list[str]:
        conversations = [[{"role": "user", "content": prompt}] for prompt in prompts]
        return list(
            self._tokenizer.apply_chat_template(
                conversations, tokenize=False, add_generation_prompt=True
            )
        )

    def _whole(self, prompt: str, response: str) -> str:
        messages = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": response},
        ]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False))

    def _tokens(self, text: str) -> Tokens:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])


class PairEncoder:
    """Encodes for encoder-decoder models: the prompt for the encoder, answers for the decoder."""

    def __init__(self, tokenizer: Any, *, context: int | None = None) -> None:
        """Use ``tokenizer``, with its own special tokens; ``context`` as for `Encoder`."""
        self._tokenizer = tokenizer
        self._context = context
        self._sets: dict[tuple[str, ...], tuple[Tokens, ...]] = {}

    def encode(
        self, prompt: str, responses: Sequence[str], *, text: str = "", repeats: bool = False
    ) -> Encoded:
        """Encode one input and its possible outputs; see `Encoder.encode`."""
        del text
        return self._encoded(prompt, self._answers_to(tuple(responses), repeats=repeats))

    def encode_all(
        self, prompts: Sequence[str], responses: Sequence[str], *, texts: Sequence[str] = ()
    ) -> list[Encoded]:
        """Encode inputs that share their outputs; see `Encoder.encode_all`."""
        del texts
        answers = self._answers_to(tuple(responses), repeats=False)
        return [self._encoded(prompt, answers) for prompt in prompts]

    def prompt(self, text: str) -> Tokens:
        """Tokens of the encoder's input."""
        return self._encoded(text, ()).prompt

    def _encoded(self, prompt: str, answers: tuple[Tokens, ...]) -> Encoded:
        tokens = tuple(self._tokenizer(prompt)["input_ids"])
        excess = 0 if self._context is None else max(0, len(tokens) - self._context)
        return Encoded(tokens[excess:], answers, dropped=excess)

    def _answers_to(self, responses: tuple[str, ...], *, repeats: bool) -> tuple[Tokens, ...]:
        if responses in self._sets:
            return self._sets[responses]
        special = set(self._tokenizer.all_special_ids)
        ids = self._tokenizer(text_target=list(responses))["input_ids"]
        answers = tuple(tuple(tokens) for tokens in ids)
        for text, tokens in zip(responses, answers, strict=True):
            if all(token in special for token in tokens):
                raise MultitaskError(f"the answer {text!r} has no tokens")
        if not repeats:
            refuse_equal(responses, answers)
            self._sets[responses] = answers
        return answers


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of a tokenizer's special tokens, those that no name such as ``eos`` points to as well."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    named = set(tokenizer.all_special_ids)
    return frozenset(named | {number for number, token in added.items() if token.special})


def turn_end(tokenizer: Any) -> str | None:
    """The token that ends an answer in a tokenizer's chat template; None where nothing does.

    Raises:
        MultitaskError: The template cannot be scored; see `Encoder`.
    """
    (answer,) = Encoder(tokenizer).encode("x", ["probe"]).answers
    if answer[-1] not in special_ids(tokenizer):
        return None
    return str(tokenizer.convert_ids_to_tokens(answer[-1]))


def refuse_equal(responses: Sequence[str], answers: Sequence[Tokens]) -> None:
    """Refuse labels that a model cannot tell apart.

    Raises:
        InputError: Two responses have the same tokens.
    """
    seen: dict[Tokens, str] = {}
    for text, tokens in zip(responses, answers, strict=True):
        if tokens in seen:
            raise InputError(
                f"the answers {seen[tokens]!r} and {text!r} have the same tokens",
                fix="give every label a text of its own",
            )
        seen[tokens] = text


def _token_at(begins: Sequence[int], place: int) -> int:
    """The first token that begins at a character or after it."""
    return next((i for i, begin in enumerate(begins) if begin >= place), len(begins))
