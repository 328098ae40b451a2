"""What is decided before wandb starts, and the final table."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from multitask.callbacks.login import logged_in
from multitask.callbacks.progress import drop_later
from multitask.callbacks.tracking import final_table, prepare_wandb
from multitask.run import Run


def _prepared(tmp_path: Path, cfg: dict[str, str], **environment: str) -> dict[str, str]:
    found = {"HOME": str(tmp_path)} | environment
    prepare_wandb(cfg, Run(tmp_path / "run"), found)
    return found


def test_without_a_login_wandb_stays_offline(tmp_path: Path) -> None:
    assert _prepared(tmp_path, {"wandb_project": "p"})["WANDB_MODE"] == "offline"


def test_with_a_key_wandb_goes_online(tmp_path: Path) -> None:
    assert "WANDB_MODE" not in _prepared(tmp_path, {"wandb_project": "p"}, WANDB_API_KEY="k")


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    found = _prepared(tmp_path, {"wandb_project": "p"}, WANDB_MODE="disabled", WANDB_RUN_ID="mine")
    assert (found["WANDB_MODE"], found["WANDB_RUN_ID"]) == ("disabled", "mine")
    assert "WANDB_MODE" not in _prepared(tmp_path, {"wandb_project": "p", "wandb_mode": "online"})


def test_without_a_project_nothing_happens(tmp_path: Path) -> None:
    assert _prepared(tmp_path, {}) == {"HOME": str(tmp_path)}
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_its_id(tmp_path: Path) -> None:
    first, second = (_prepared(tmp_path, {"wandb_project": "p"}) for _ in range(2))
    assert first["WANDB_RUN_ID"] == second["WANDB_RUN_ID"]
    assert first["WANDB_RESUME"] == "allow"
    assert first["WANDB_DIR"] == str(tmp_path / "run" / "logs")


@pytest.mark.parametrize(
    ("machine", "base_url", "expected"),
    [
        ("api.wandb.ai", None, True),
        ("example.org", None, False),
        ("wandb.example.org", "https://wandb.example.org/", True),
    ],
)
def test_a_netrc_counts_for_its_host(
    tmp_path: Path, machine: str, base_url: str | None, expected: bool
) -> None:
    (tmp_path / ".netrc").write_text(f"machine {machine}\n  login user\n  password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    environment = {"HOME": str(tmp_path)} | ({"WANDB_BASE_URL": base_url} if base_url else {})
    assert logged_in(environment) is expected


def test_the_table_has_first_last_and_best_of_each_task() -> None:
    history = [
        {"step": 0, "eval/a/loss": 3.0, "eval/a/rows": 5},
        {"step": 5, "loss": 1.0},
        {"step": 5, "eval/a/loss": 1.0, "eval/a/rows": 5, "eval/score": 0.5},
        {"step": 9, "eval/a/loss": 2.0, "eval/a/rows": 5, "eval/score": 0.4},
    ]
    assert final_table(history, best_step=5) == [("a", "loss", 3.0, 2.0, 1.0)]
    assert final_table([], best_step=None) == []


def test_a_log_forgets_steps_that_come_again(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 0}\n{"step": 4}\n{"step": 8}\n{"ste')
    drop_later(log, 4)
    assert log.read_text() == '{"step": 0}\n{"step": 4}\n'
    drop_later(log, 0)
    assert log.read_text() == ""
