"""Tasks as lm-evaluation-harness task folders, so that others can reproduce an accuracy.

The harness gets finished prompts: the chat template is rendered here, as training saw it, and every
choice ends with the token that ends the turn. Both then have the same tokens, up to white space at
the prompt's end, which the harness counts to every choice alike: the best choice stays the best.
Written for and tested with lm-eval 0.4.11.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import yaml

from multitask.data.fingerprint import normalised
from multitask.data.render import Row, gold
from multitask.errors import InputError, MultitaskError
from multitask.run import Run, staged_folder
from multitask.scoring.encode import Encoder
from multitask.scoring.model import LoadedModel
from multitask.scoring.score import requests_of
from multitask.tasks import Task

PREFIX = "multitask_"
"""Names of the exported tasks begin so, since the harness knows a banking77 of its own."""

_ROWS = "rows.jsonl"
_RULE = Path("exact_match.py")
_COMMON = {
    "dataset_path": "json",
    "test_split": "test",
    "num_fewshot": 0,
    "doc_to_text": "prompt",
    "doc_to_target": "gold",
    "target_delimiter": "",
}


def export_lm_eval(
    run: Run,
    directory: Path,
    loaded: LoadedModel,
    tasks: Sequence[Task],
    rows: dict[str, list[Row]],
) -> dict[str, int]:
    """Write each task as a folder with its YAML and rows, and a README with the command.

    The model's tokenizer renders the prompts.

    Returns:
        Of each task, the rows whose prompt is longer than the context: the harness cuts them at
        their beginning and `multitask` within the text, so that the two may differ on them.

    Raises:
        InputError: The directory has content, or the model is an encoder-decoder.
        MultitaskError: The model's tokenizer does not read the texts as training did.
    """
    encoder = loaded.encoder()
    if not isinstance(encoder, Encoder):
        raise InputError("encoder-decoder models cannot be exported to lm_eval", where=loaded.name)
    writer = _Texts(loaded.tokenizer, encoder)
    beyond = {}
    with staged_folder(directory) as stage:
        for task in tasks:
            folder = stage / task.name
            folder.mkdir()
            records = list(writer.records(task, rows[task.name]))
            beyond[task.name] = sum(dropped for _, dropped in records)
            lines = [orjson.dumps(r, option=orjson.OPT_APPEND_NEWLINE) for r, _ in records]
            (folder / _ROWS).write_bytes(b"".join(lines))
            content = yaml.safe_dump(_config(task, writer.end), sort_keys=False)
            if not task.kind.closed:
                content += f"process_results: !function {_RULE.stem}.process_results\n"
                (folder / _RULE).write_text(_rule(), encoding="utf-8")
            (folder / f"{task.name}.yaml").write_text(content, encoding="utf-8")
        (stage / "README.md").write_text(_readme(run, loaded, rows, beyond), encoding="utf-8")
    return beyond


@dataclass
class _Texts:
    """Prompts and answers as texts that a tokenizer reads as training did."""

    _tokenizer: Any
    _encoder: Encoder
    _checked: set[str] = field(default_factory=set)
    end: str = ""

    def records(self, task: Task, rows: Sequence[Row]) -> Iterator[tuple[dict[str, Any], bool]]:
        """Rows for the harness, and whether each is longer than the context."""
        for row, request in zip(rows, requests_of(task, rows), strict=True):
            prompt = self._render({"role": "user", "content": request.prompt})
            record = {"id": row["id"], "prompt": prompt}
            if not task.kind.closed:
                self._answer(prompt, request.prompt, row["messages"][1]["content"])
                dropped = self._encoder.encode(request.prompt, ("A",)).dropped
                yield record | {"gold": gold(row)}, dropped > 0
                continue
            answers = [self._answer(prompt, request.prompt, one) for one in request.candidates]
            if row["template"] not in self._checked:
                self._check(prompt, answers[0], row["id"])
                self._checked.add(row["template"])
            dropped = self._encoder.encode(
                request.prompt, request.candidates, text=request.text, repeats=not request.distinct
            ).dropped
            yield record | {"choices": answers, "gold": request.gold}, dropped > 0

    def _render(self, *messages: dict[str, str]) -> str:
        asks = len(messages) == 1
        return str(
            self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=asks
            )
        )

    def _answer(self, prompt: str, message: str, response: str) -> str:
        """An answer with the end of its turn, without what a template writes after that."""
        whole = self._render(
            {"role": "user", "content": message}, {"role": "assistant", "content": response}
        )
        answer = whole[len(prompt) :]
        tokens = [token for token in self._tokenizer.all_special_tokens if token in answer]
        if not tokens:
            return answer
        end, self.end = max((answer.rfind(token) + len(token), token) for token in tokens)
        return answer[:end]

    def _check(self, prompt: str, answer: str, row: str) -> None:
        """See that the harness, which tokenises prompt and answer in one go, cuts where we do."""
        whole = self._ids(prompt + answer)
        stripped = self._ids(prompt.rstrip())
        if whole[: len(stripped)] != stripped:
            raise MultitaskError(
                f"lm_eval would cut row {row!r} elsewhere between prompt and answer",
                where=self._tokenizer.name_or_path,
                fix="use a chat template whose generation prompt ends in a special token",
            )

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _config(task: Task, end: str) -> dict[str, Any]:
    generation = {"until": [end] if end else [], "do_sample": False, "max_gen_toks": 128}
    closed = task.kind.closed
    own: dict[str, Any] = (
        {"output_type": "multiple_choice", "doc_to_choice": "choices"}
        if closed
        else {"output_type": "generate_until", "generation_kwargs": generation}
    )
    metric = "acc" if closed else "exact_match"
    return {
        "task": PREFIX + task.name,
        **_COMMON,
        # Relative to where lm_eval is started, which is the folder of the README.
        "dataset_kwargs": {"data_files": {"test": f"{task.name}/{_ROWS}"}},
        "metadata": {"version": 1},
        **own,
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
    }


def _rule() -> str:
    """Our exact match as the harness's own function: its filters cannot collapse white space."""
    return (
        '''"""When two texts match exactly: copied from multitask, which counts the same way."""

import re
import unicodedata


'''
        + inspect.getsource(normalised)
        + """

def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    return {"exact_match": float(normalised(results[0]) == normalised(doc["gold"]))}
"""
    )


def model_arguments(name: str) -> str:
    """``--model_args`` of the harness for a model or an adapter."""
    folder = Path(name)
    path = str(folder.resolve()) if folder.is_dir() else name
    adapter = folder / "adapter_config.json"
    parts = {"pretrained": path, "dtype": "float32", "add_bos_token": "False"}
    if adapter.is_file():
        base = orjson.loads(adapter.read_bytes())["base_model_name_or_path"]
        base = str(Path(base).resolve()) if Path(base).is_dir() else base
        parts |= {"pretrained": base, "peft": path, "tokenizer": path}
    return ",".join(f"{key}={value}" for key, value in parts.items())


def _readme(
    run: Run, loaded: LoadedModel, rows: dict[str, list[Row]], beyond: dict[str, int]
) -> str:
    names = ",".join(PREFIX + task for task in beyond)
    arguments = shlex.quote(model_arguments(loaded.name))
    table = "".join(
        f"| {PREFIX}{task} | {len(rows[task]):,} | {count:,} |\n" for task, count in beyond.items()
    )
    return f"""# Tasks of {run.root.name} for lm-evaluation-harness

Tested with lm-eval 0.4.11. In this folder:

    HF_DATASETS_OFFLINE=1 lm_eval --model hf --model_args {arguments} \\
      --tasks {names} --include_path . --batch_size 16

`acc` is the `accuracy` of `multitask evaluate`, and `exact_match` of a generation task the
`exact_match`. Do not add `--apply_chat_template`: the prompts are rendered already, and each choice
ends with the token that ends the turn, as in training. `multitask evaluate` has to run in the same
precision (`--dtype float32`) for ties to fall alike.

| task | rows | longer than the context |
| --- | ---: | ---: |
{table}
Prompts longer than the context are cut at different places by the two.
"""
