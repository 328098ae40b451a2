"""Token sequences of prompts and answers, exactly as training saw them.

Training renders a whole conversation with the chat template and learns the tokens of the
assistant's turn. So an answer's tokens are what the rendered conversation has after the rendered
prompt, up to and with the token that ends the turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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


class Encoder:
    """Encodes prompts and answers with a tokenizer's chat template."""

    def __init__(self, tokenizer: Any, *, context: int | None = None) -> None:
        """Use a fast tokenizer of transformers; prompts of more tokens than ``context`` lose some.

        Raises:
            MultitaskError: The tokenizer has no chat template.
        """
        self._tokenizer = tokenizer
        self._context = context
        self._special = special_ids(tokenizer)
        self._answers: dict[tuple[str, ...], tuple[Tokens, ...]] = {}
        self._opening = ""
        self._opening = self._find_opening()

    def encode(
        self, prompt: str, responses: Sequence[str], *, text: str = "", repeats: bool = False
    ) -> Encoded:
        """Encode one message; see `encode_all`."""
        return self.encode_all([prompt], responses, texts=[text], repeats=repeats)[0]

    def encode_all(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        texts: Sequence[str] = (),
        repeats: bool = False,
    ) -> list[Encoded]:
        """Encode users' messages and the answers that they share, one response per label.

        Of a message too long for the context the beginning of its ``texts`` goes; default: of what
        follows the chat template's own header. ``repeats``: responses of equal tokens are right,
        such as options that repeat a text.

        Raises:
            InputError: Two responses have the same tokens, or the context has no room.
            MultitaskError: A response has no tokens, or the template does not keep prompt and
                answer apart.
        """
        if not prompts:
            return []
        key = tuple(responses)
        answers = self._answers.get(key)
        if answers is None:
            answers = tuple(self._tokens(prompts[0], key))
            self._check(key, answers, repeats=repeats)
            if not repeats:
                self._answers[key] = answers
        return self._fitted(prompts, texts or [""] * len(prompts), answers)

    def _check(self, responses: Sequence[str], answers: Sequence[Tokens], *, repeats: bool) -> None:
        seen: dict[Tokens, str] = {}
        for text, tokens in zip(responses, answers, strict=True):
            if self._special.issuperset(tokens):
                raise MultitaskError(f"the answer {text!r} has no tokens")
            if tokens in seen and not repeats:
                raise InputError(
                    f"the answers {seen[tokens]!r} and {text!r} have the same tokens",
                    fix="give every label a text of its own",
                )
            seen[tokens] = text

    def _tokens(self, prompt: str, responses: Sequence[str]) -> Iterator[Tokens]:
        """Of each response: they depend on the turn's opening, not on the prompt."""
        heads = self._heads([prompt])
        (before,), wholes = self._ids(heads), [self._whole(prompt, text) for text in responses]
        for text, whole, tokens in zip(responses, wholes, self._ids(wholes), strict=True):
            if not whole.startswith(heads[0]):
                raise MultitaskError(
                    "the chat template renders a prompt differently once it is answered",
                    where=self._tokenizer.name_or_path,
                    fix="use a template whose generation prompt is the beginning of the answer's "
                    "turn",
                )
            if tokens[: len(before)] != before:
                raise MultitaskError(
                    f"the tokenizer merges the prompt's end with the answer {text!r}",
                    where=self._tokenizer.name_or_path,
                    fix="use a chat template that separates them by a special token or a line "
                    "break",
                )
            yield self._until_end(tokens[len(before) :])

    def _until_end(self, tokens: Tokens) -> Tokens:
        """Cut what a template writes after the end of the turn: a line break, the text's end."""
        special = [token in self._special for token in tokens]
        begin = special.index(False) if False in special else len(special)
        return tokens[: special.index(True, begin) + 1] if True in special[begin:] else tokens

    def _find_opening(self) -> str:
        """What a template writes before an answer and not in its generation prompt.

        Qwen 3 opens an answer with an empty thought. Training learns the answer alone
        (axolotl/prompt_strategies/chat_template.py, find_turn), so the opening is prompt.
        """
        if not self._tokenizer.chat_template:
            raise MultitaskError(
                "the tokenizer has no chat template, so a prompt cannot be put to the model",
                where=self._tokenizer.name_or_path,
                fix="use an instruct model, or save a chat template with the tokenizer",
            )
        probe = "probe"
        (head,) = self._heads(["x"])
        _, found, rest = self._whole("x", probe).partition(head)
        opening = rest[: rest.rfind(probe)] if found and probe in rest else ""
        return opening if opening.strip() else ""

    def _fitted(
        self, prompts: Sequence[str], texts: Sequence[str], answers: tuple[Tokens, ...]
    ) -> list[Encoded]:
        """Prompts in tokens that leave room for the answers."""
        heads = self._heads(prompts)
        found = [Encoded(tokens, answers) for tokens in self._ids(heads)]
        if self._context is None:
            return found
        room = self._context - max(map(len, answers))
        for i, query in enumerate(found):
            if len(query.prompt) > room:
                kept = self._cut(query.prompt, room, heads[i], prompts[i], texts[i])
                found[i] = Encoded(kept, answers, dropped=len(query.prompt) - len(kept))
        return found

    def _cut(self, tokens: Tokens, room: int, head: str, prompt: str, text: str) -> Tokens:
        """Leave out tokens: first of the text, then of what stands before the prompt's end."""
        offsets = self._tokenizer(head, add_special_tokens=False, return_offsets_mapping=True)
        begins = [begin for begin, _ in offsets["offset_mapping"]]

        def token_at(place: int) -> int:
            return next((i for i, begin in enumerate(begins) if begin >= place), len(begins))

        content = token_at(max(head.find(prompt.strip()), 0))
        if room <= content:
            raise InputError(
                f"the context of {self._context} tokens has no room for a prompt",
                fix="shorten the labels, or the chat template's system message",
            )
        place = head.rfind(text) if text else -1
        first, last = content, len(tokens)
        if place >= 0:
            first, last = token_at(place), token_at(place + len(text))
        cut = min(len(tokens) - room, last - first)
        kept = tokens[:first] + tokens[first + cut :]
        if len(kept) > room:
            kept = kept[:content] + kept[len(kept) - room + content :]
        return kept

    def _heads(self, prompts: Sequence[str]) -> list[str]:
        conversations = [[{"role": "user", "content": prompt}] for prompt in prompts]
        heads = self._tokenizer.apply_chat_template(
            conversations, tokenize=False, add_generation_prompt=True
        )
        return [head + self._opening for head in heads]

    def _whole(self, prompt: str, response: str) -> str:
        turns = (("user", prompt), ("assistant", response))
        messages = [{"role": role, "content": content} for role, content in turns]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False))

    def _ids(self, texts: list[str]) -> list[Tokens]:
        return [tuple(ids) for ids in self._tokenizer(texts, add_special_tokens=False)["input_ids"]]


class PairEncoder(Encoder):
    """Encodes for encoder-decoders: the prompt for the encoder, answers for the decoder."""

    def _find_opening(self) -> str:
        return ""

    def _tokens(self, prompt: str, responses: Sequence[str]) -> Iterator[Tokens]:
        del prompt
        yield from map(tuple, self._tokenizer(text_target=list(responses))["input_ids"])

    def _fitted(
        self, prompts: Sequence[str], texts: Sequence[str], answers: tuple[Tokens, ...]
    ) -> list[Encoded]:
        del texts  # too long inputs lose their beginning
        found = []
        for ids in self._tokenizer(list(prompts))["input_ids"]:
            excess = 0 if self._context is None else max(0, len(ids) - self._context)
            found.append(Encoded(tuple(ids[excess:]), answers, dropped=excess))
        return found


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of a tokenizer's special tokens, those that no name such as ``eos`` points to as well."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    named = set(tokenizer.all_special_ids)
    return frozenset(named | {number for number, token in added.items() if token.special})


def turn_end(tokenizer: Any) -> str | None:
    """The token that ends an answer in a tokenizer's chat template; None where nothing does."""
    (answer,) = Encoder(tokenizer).encode("x", ["probe"]).answers
    if answer[-1] not in special_ids(tokenizer):
        return None
    return str(tokenizer.convert_ids_to_tokens(answer[-1]))
