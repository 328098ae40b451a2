"""What a job starts, read from a run that was built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from multitask.build import build_config
from multitask.errors import InputError
from multitask.machine.commands import REHEARSAL_FILE, Commands
from multitask.machine.settings import Place
from multitask.spec import HubSpec, Spec


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 3x4 run of a model whose sizes are shipped."""
    spec = Spec(
        model="meta-llama/Llama-3.1-8B-Instruct",
        tasks=("text_claims",),
        cluster="3x4-a100-80gb",
        sample=True,
    )
    return build_config(spec, tmp_path_factory.mktemp("built") / "run", validate=False).run.root


@pytest.fixture
def pushed(built: Path, tmp_path: Path) -> Commands:
    """The same with a repository to push to."""
    spec = yaml.safe_load((built / "spec.yaml").read_text())
    spec["hub"] = HubSpec(repo="me/first").model_dump()
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    return Commands(tmp_path)


def test_a_run_says_what_its_nodes_need(built: Path) -> None:
    wanted = Commands(built).wanted("b" * 64)
    assert wanted.gpus == 4
    assert wanted.checkpoint_gb is not None
    assert 0.01 < wanted.checkpoint_gb < 10  # an adapter's, with its optimizer


def test_other_machines_than_the_run_was_built_for_are_refused(built: Path) -> None:
    Commands(built).check_place(Place(0, 3))
    with pytest.raises(InputError, match=r"built for 3 node\(s\), and this job has 2"):
        Commands(built).check_place(Place(0, 2))


def test_a_node_trains_by_its_rank_and_goes_on(built: Path) -> None:
    command, more = Commands(built).train(Place(2, 3, "10.65.0.2", 29400))
    assert command[1:] == ["-m", "multitask", "train", str(built), "--resume"]
    assert more == {"NODE_RANK": "2", "MASTER_ADDR": "10.65.0.2", "MASTER_PORT": "29400"}


def test_after_the_training_node_0_evaluates_on_all_its_gpus(built: Path) -> None:
    command = Commands(built).of("evaluating", 4)
    assert command[-4:] == ["evaluate", str(built), "--processes", "4"]
    assert "--processes" not in Commands(built).of("evaluating", 0)


def test_without_a_repository_nothing_is_pushed(built: Path, pushed: Commands) -> None:
    assert Commands(built).after("training") == "evaluating"
    assert Commands(built).after("reporting") == "done"
    assert pushed.after("reporting") == "pushing"
    assert pushed.after("pushing") == "done"
    assert pushed.of("pushing", 4)[-1] == "me/first"


def test_a_rehearsal_trains_on_cpus_and_is_never_pushed(pushed: Commands) -> None:
    (pushed.root / REHEARSAL_FILE).write_text(json.dumps({"nodes": 3, "procs": 2}))
    pushed.check_place(Place(1, 3))
    assert pushed.wanted("b" * 64).gpus == 0
    command, _ = pushed.train(Place(1, 3, "127.0.0.1", 29500))
    assert command[2] == "multitask.rehearsal.node"
    assert command[command.index("--node") + 1] == "1"
    assert pushed.after("reporting") == "done"


@pytest.mark.parametrize("content", ["{", "[]", '{"nodes": 0, "procs": 1}', '{"nodes": "3; id"}'])
def test_a_layout_of_another_form_is_refused(pushed: Commands, content: str) -> None:
    (pushed.root / REHEARSAL_FILE).write_text(content)
    with pytest.raises(InputError, match=REHEARSAL_FILE):
        pushed.train(Place(0, 3))
