"""A chat template that shows the date says the same on every day, wherever it is used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.build import build_config
from multitask.errors import InputError
from multitask.run import Run
from multitask.runners.axolotl.keys import check_template
from multitask.scoring.chat import TEMPLATE_FILE, freeze_date, freeze_tokenizer, is_dated
from multitask.scoring.encode import Encoder
from multitask.scoring.model import load_model
from multitask.spec import load_spec

transformers = pytest.importorskip("transformers")

# As Llama 3.2 writes it before the first message.
_DATED = (
    "{%- if strftime_now is defined %}{%- set day = strftime_now('%d %b %Y') %}"
    '{%- else %}{%- set day = "26 Jul 2024" %}{%- endif %}Today: {{ day }} '
)
_DAYS = (datetime(2026, 11, 27, 23, 59), datetime(2026, 11, 28, 0, 1))  # noqa: DTZ001


@pytest.fixture
def dated(toy: Path, tmp_path: Path) -> Path:
    """A model whose template shows the date."""
    folder = tmp_path / "dated"
    shutil.copytree(toy, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = _DATED + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    return folder


def _on(day: datetime, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any]) -> Any:
    """What is made on a day; transformers asks ``datetime.now()`` for it."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return day

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
    return make()


def test_a_row_has_the_same_tokens_on_two_days(
    dated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokens() -> Any:
        tokenizer = transformers.AutoTokenizer.from_pretrained(dated)
        return Encoder(tokenizer).encode("where is my card?", ["card"])

    def scored() -> Any:
        return Encoder(load_model(str(dated)).tokenizer).encode("where is my card?", ["card"])

    raw = {_on(day, monkeypatch, tokens) for day in _DAYS}
    assert len(raw) == 2  # else this test would show nothing
    assert len({_on(day, monkeypatch, scored) for day in _DAYS}) == 1


@pytest.mark.parametrize("name", ["llama3_2_vision", "llama4", "mistral_v7_tekken"])
def test_the_dated_templates_of_axolotl_can_be_frozen(name: str, toy: Path) -> None:
    templates = pytest.importorskip("axolotl.utils.chat_templates")
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(toy)
    tokenizer.chat_template = templates.get_chat_template(name)
    assert "strftime_now" in tokenizer.chat_template
    freeze_tokenizer(tokenizer)
    assert "strftime_now" not in tokenizer.chat_template
    assert not is_dated(tokenizer)


def test_a_frozen_template_shows_the_day_that_meta_takes_without_a_clock() -> None:
    frozen = freeze_date(_DATED)
    assert "'26 Jul 2024'" in frozen
    assert "if true" in frozen
    assert freeze_date("no {{ date }}") == "no {{ date }}"


def test_a_clock_that_cannot_be_frozen_is_told() -> None:
    with pytest.raises(InputError, match="cannot be frozen") as error:
        freeze_date("{% set f = '%d' %}{{ strftime_now(f) }}")
    assert "chat_template_jinja" in str(error.value)


def test_a_run_keeps_a_copy_with_a_fixed_date(dated: Path, write_spec: Any, tmp_path: Path) -> None:
    spec = load_spec(write_spec(model=str(dated), tasks=["text_claims"]))
    run = build_config(spec, tmp_path / "run", validate=False).run
    config = yaml.safe_load(run.axolotl.read_text())
    assert (config["chat_template"], config["chat_template_jinja"]) == ("jinja", TEMPLATE_FILE)
    copy = (run.root / TEMPLATE_FILE).read_text()
    assert "strftime_now" not in copy
    # The same as scoring makes of the model's own, so that a base is asked as the tuned one.
    assert copy == load_model(str(dated)).tokenizer.chat_template


def test_a_dated_template_of_the_users_is_refused(
    toy: Path, write_spec: Any, tmp_path: Path
) -> None:
    own = {"chat_template": "jinja", "chat_template_jinja": _DATED + "{{ messages }}"}
    spec = load_spec(write_spec(model=str(toy), tasks=["text_claims"], axolotl=own))
    with pytest.raises(InputError, match="shows the date of the day"):
        build_config(spec, tmp_path / "run", validate=False)
    assert not (tmp_path / "run").exists()


def test_training_freezes_what_the_builder_could_not_see(dated: Path, tmp_path: Path) -> None:
    pytest.importorskip("axolotl")
    from axolotl.utils.chat_templates import get_chat_template_from_config
    from axolotl.utils.dict import DictDefault

    from multitask.runners.axolotl.plugin import freeze_template

    cfg = DictDefault({"base_model": str(dated), "chat_template": "tokenizer_default"})
    freeze_template(cfg, Run(tmp_path))
    text = get_chat_template_from_config(cfg)
    assert "strftime_now" not in text
    assert text == (tmp_path / TEMPLATE_FILE).read_text()
    plain = DictDefault({"base_model": "nobody/nothing", "chat_template": "chatml"})
    freeze_template(plain, Run(tmp_path))
    assert plain.chat_template == "chatml"


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({"eot_tokens": ["<|user|>"]}, "eot_tokens", "ends with <|end|>"),
        ({"special_tokens": {"eos_token": "<|pad|>"}}, "eot_tokens", "ends with <|end|>"),
        (
            {"special_tokens": {"pad_token": "[PAD]"}},
            "special_tokens.pad_token",
            "not in the vocabulary",
        ),
        (
            {
                "chat_template_jinja": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
                "{% endfor %}{{ '<|assistant|>' if add_generation_prompt }}"
            },
            "chat_template",
            "no token that ends an answer",
        ),
    ],
)
def test_a_template_whose_answers_do_not_end_is_told(
    change: dict[str, Any], where: str, what: str, toy: Path
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(toy)
    assert list(check_template({}, tokenizer, toy)) == []
    (finding,) = check_template(change, transformers.AutoTokenizer.from_pretrained(toy), toy)
    assert finding.place == where
    assert what in finding.answer
    assert finding.remedy


def test_a_local_models_own_end_of_turn_is_trained(
    toy: Path, write_spec: Any, tmp_path: Path
) -> None:
    """A tuned Gemma under another name: its tokenizer is asked, not its family's file."""
    folder = tmp_path / "model"
    shutil.copytree(toy, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "<|pad|>"
    tokenizer.save_pretrained(folder)
    spec = load_spec(write_spec(model=str(folder), tasks=["text_claims"]))
    run = build_config(spec, tmp_path / "run", validate=False).run
    assert yaml.safe_load(run.axolotl.read_text())["eot_tokens"] == ["<|end|>"]
