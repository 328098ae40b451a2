"""Bad models and prompts end in one message, with the right exit code, and leave nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from multitask.cli import main
from multitask.data.readers import read_rows
from multitask.errors import InputError
from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.requests import Settings
from multitask.run import Run

torch = pytest.importorskip("torch")

Command = Callable[..., tuple[object, str]]
QUICK = Settings(baselines=False, generate=0)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str]]:
    """Run ``multitask evaluate RUN ...`` in this process; gives exit code and error output."""

    def run(of: Run, *arguments: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["multitask", "evaluate", str(of.root), *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr().err

    return run


def _assert_one_message(done: tuple[object, str], run: Run, code: int, words: str) -> None:
    assert done[0] == code, done[1]
    assert words in done[1]
    assert done[1].count("error: ") == 1
    assert not run.evaluations.exists()


def _with_weights(run: Run, change: object) -> None:
    from safetensors.torch import load_file, save_file

    path = run.model / "model.safetensors"
    tensors = load_file(path)
    change(tensors)  # type: ignore[operator]
    save_file(tensors, path, metadata={"format": "pt"})


def test_nan_weights_name_the_row(trained_copy: Run, command: Command) -> None:
    def poison(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.mlp.up_proj.weight"][:] = float("nan")

    _with_weights(trained_copy, poison)
    done = command(trained_copy)
    _assert_one_message(done, trained_copy, 1, "not finite for row")
    ids = {row["id"] for row in read_rows(trained_copy.split("test"))}
    assert any(repr(name) in done[1] for name in ids)


def test_nan_weights_are_noticed_in_generation(trained_copy: Run) -> None:
    """Greedy decoding takes NaN for a number."""
    from multitask.errors import MultitaskError
    from multitask.evaluation.requests import read_inputs
    from multitask.scoring.model import load_model
    from multitask.scoring.score import requests_of
    from multitask.scoring.scorer import Scorer

    inputs = read_inputs(trained_copy, "test", 3, QUICK)
    requests = requests_of(inputs.tasks[0], inputs.rows["text_claims"])
    loaded = load_model(str(trained_copy.model))
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[:] = float("nan")
    with pytest.raises(MultitaskError, match="not finite for row"):
        Scorer(loaded).generate(requests, max_new_tokens=3)


def test_a_tokenizer_of_another_vocabulary_is_refused(trained_copy: Run, command: Command) -> None:
    def shrink(tensors: dict[str, torch.Tensor]) -> None:
        name = "model.embed_tokens.weight"
        tensors[name] = tensors[name][:100].clone()

    _with_weights(trained_copy, shrink)
    path = trained_copy.model / "config.json"
    config = json.loads(path.read_text()) | {"vocab_size": 100}
    path.write_text(json.dumps(config))
    done = command(trained_copy)
    _assert_one_message(done, trained_copy, 1, "but the model knows 100 tokens")


def test_an_adapter_whose_base_is_gone_is_refused(trained_copy: Run, command: Command) -> None:
    (trained_copy.model / "config.json").unlink()
    content = {"base_model_name_or_path": "./gone", "peft_type": "LORA"}
    (trained_copy.model / "adapter_config.json").write_text(json.dumps(content))
    _assert_one_message(command(trained_copy), trained_copy, 2, "base model './gone' is not there")


def test_a_label_that_has_no_tokens_is_refused(trained_copy: Run) -> None:
    manifest = json.loads(trained_copy.manifest.read_text())
    manifest["tasks"]["banking77"]["templates"] = [
        template | {"response": "{{ label if label != 'card_arrival' }}"}
        for template in manifest["tasks"]["banking77"]["templates"]
    ]
    trained_copy.manifest.write_text(json.dumps(manifest))
    with pytest.raises(Exception, match="has no tokens"):
        evaluate(trained_copy, settings=QUICK)


def test_prompts_beyond_the_context_are_counted(trained_copy: Run) -> None:
    path = trained_copy.model / "config.json"
    config = json.loads(path.read_text()) | {"max_position_embeddings": 60}
    path.write_text(json.dumps(config))
    outcome = evaluate(trained_copy, settings=QUICK)
    truncated = outcome.results["tasks"]["commonsense_qa"]["truncated"]
    assert 0 < truncated["rows"] <= 20
    assert truncated["tokens"] >= truncated["rows"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "nothing"], "no evaluation 'nothing' to compare with"),
        (["--name", "a/b"], "cannot be the name of an evaluation"),
        (["--calibration", "temprature"], "did you mean 'temperature'"),
        (["--base", "--name", "base"], "is the base model's"),
        (["--dtype", "bfloat"], "did you mean 'bfloat16'"),
        (["--target-precision", "1.5"], "not in 0 to 1"),
    ],
)
def test_wrong_options_end_with_2(
    trained: Run, command: Command, arguments: list[str], message: str
) -> None:
    done = command(trained, *arguments)
    _assert_one_message(done, trained, 2, message)


def test_another_evaluation_of_other_data_is_no_opponent(trained_copy: Run) -> None:
    evaluate(trained_copy, settings=QUICK, name="before", limit=4)
    with pytest.raises(InputError, match="compared with itself"):
        evaluate(trained_copy, settings=QUICK, name="before", against=["before"])
    with pytest.raises(InputError, match="no row in common"):
        evaluate(trained_copy, settings=QUICK, split="validation", against=["before"])
