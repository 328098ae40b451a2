"""Tokens of prompts and answers equal those of the conversation that training renders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multitask.errors import InputError, MultitaskError
from multitask.scoring.encode import Encoder, PairEncoder

transformers = pytest.importorskip("transformers")


def conversation(tokenizer: Any, prompt: str, answer: str) -> tuple[int, ...]:
    """Tokens of a whole conversation, by the tokenizer itself."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return tuple(tokenizer.apply_chat_template(messages, return_dict=False))


def test_prompt_and_answer_are_the_conversation(toy: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(toy)
    encoder = Encoder(tokenizer)
    for prompt in ("where is my card?", "naïve “quotes”\nand a line", "x"):
        encoded = encoder.encode(prompt, ["card_arrival", "card", "reverted_card_payment?"])
        for text, answer in zip(
            ["card_arrival", "card", "reverted_card_payment?"], encoded.answers, strict=True
        ):
            assert encoded.prompt + answer == conversation(tokenizer, prompt, text)
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


def test_a_batch_is_encoded_as_one_by_one(toy: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(toy)
    prompts = ["where is my card?", "naïve “quotes”\nand a line", "x"]
    together = Encoder(tokenizer).encode_all(prompts, ["card", "lost"])
    assert together == [Encoder(tokenizer).encode(prompt, ["card", "lost"]) for prompt in prompts]
    assert Encoder(tokenizer).encode_all([], ["card"]) == []


def test_labels_of_equal_tokens_are_refused_unless_repeats_are_right(toy: Path) -> None:
    encoder = Encoder(transformers.AutoTokenizer.from_pretrained(toy))
    with pytest.raises(InputError, match="'card' and 'card' have the same tokens"):
        encoder.encode("x", ["card", "lost", "card"])
    answers = encoder.encode("x", ["card", "lost", "card"], repeats=True).answers
    assert answers[0] == answers[2] != answers[1]


def test_a_label_without_tokens_is_refused(toy: Path) -> None:
    encoder = Encoder(transformers.AutoTokenizer.from_pretrained(toy))
    with pytest.raises(MultitaskError, match="the answer '' has no tokens"):
        encoder.encode("x", ["card", ""])


TEXT = "first words of a long message " * 20 + "LAST"
PROMPT = f"Instruction first.\n{TEXT}\nOptions: A B C\nAnswer:"


@pytest.mark.parametrize("text", [TEXT, ""])
def test_a_prompt_beyond_the_context_keeps_its_header_and_its_end(toy: Path, text: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(toy)
    whole = Encoder(tokenizer).encode(PROMPT, ["card", "lost"])
    short = Encoder(tokenizer, context=100).encode(PROMPT, ["card", "lost"], text=text)
    longest = max(map(len, short.answers))
    assert len(short.prompt) + longest == 100
    assert short.dropped == len(whole.prompt) - len(short.prompt) > 0
    assert short.answers == whole.answers
    kept = tokenizer.decode(short.prompt)
    assert kept.startswith("<|user|>")
    assert kept.endswith("LAST\nOptions: A B C\nAnswer:<|assistant|>")
    # Where the text is known, the instruction before it stays too.
    assert ("Instruction first." in kept) == bool(text)


def test_a_prompt_that_fits_stays_whole(toy: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(toy)
    assert Encoder(tokenizer, context=100).encode("x", ["card"]).dropped == 0


def test_a_context_too_short_for_any_prompt_is_refused(toy: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(toy)
    with pytest.raises(InputError, match="no room for a prompt"):
        Encoder(tokenizer, context=4).encode(PROMPT, ["card", "card_arrival"])


def test_pairs_of_an_encoder_decoder_are_those_of_its_tokenizer(toy: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(toy)
    encoder = PairEncoder(tokenizer, context=10)
    encoded = encoder.encode("where is my card? " * 9, ["card", "lost card"])
    assert encoded.prompt == tuple(tokenizer("where is my card? " * 9)["input_ids"][-10:])
    assert encoded.dropped > 0
    assert encoded.answers[1] == tuple(tokenizer("lost card")["input_ids"])


@pytest.mark.parametrize("prompt", ["where is my card?", "two\nlines", "naïve “quotes”"])
def test_what_is_scored_is_what_axolotl_trains_on(toy: Path, prompt: str) -> None:
    """Axolotl's own chat_template strategy gives the same tokens, and learns the answer's."""
    strategies = pytest.importorskip("axolotl.prompt_strategies.chat_template")
    from axolotl.utils.dict import DictDefault

    tokenizer = transformers.AutoTokenizer.from_pretrained(toy)
    strategy = strategies.load(
        tokenizer,
        DictDefault(
            {"chat_template": "tokenizer_default", "train_on_inputs": False, "sequence_len": 256}
        ),
        DictDefault({"field_messages": "messages", "roles_to_train": ["assistant"]}),
    )
    for answer in ("card", "card_arrival", "lost"):
        row = {
            "messages": [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": answer},
            ]
        }
        trained = strategy.tokenize_prompt(row)
        scored = Encoder(tokenizer).encode(prompt, [answer])
        assert tuple(trained["input_ids"]) == scored.prompt + scored.answers[0]
        learnt = tuple(token for token in trained["labels"] if token != -100)
        assert learnt == scored.answers[0]
