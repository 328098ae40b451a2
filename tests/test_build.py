"""Building a run: the same spec gives the same bytes, and a run's spec is the spec."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.build import build_config
from multitask.errors import InputError
from multitask.spec import Spec, load_spec

_SPEC = {
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "tasks": ["text_claims", "banking77", "commonsense_qa"],
    "sample": True,
    "leakage": {"near_duplicates": False},
}


@pytest.mark.parametrize(
    "change", [{}, {"sharding": "zero3", "cpu_offload": True}, {"cluster": "1x24gb"}]
)
def test_the_same_spec_gives_the_same_bytes(tmp_path: Path, change: dict[str, object]) -> None:
    spec = Spec.model_validate(_SPEC | change)
    contents = []
    for name in ("one", "two"):
        build_config(spec, tmp_path / name, validate=False)
        files = [path for path in sorted((tmp_path / name).rglob("*")) if path.is_file()]
        contents.append({str(p.relative_to(tmp_path / name)): p.read_bytes() for p in files})
    assert contents[0] == contents[1]
    assert ("deepspeed.json" in contents[0]) == ("sharding" in change)
    assert {"axolotl.yaml", "plan.md", "launch/node.sh", "spec.yaml"} < contents[0].keys()


def test_a_run_s_spec_is_the_spec(tmp_path: Path) -> None:
    spec = Spec.model_validate(_SPEC | {"checkpoint": {"mtbf_hours": 12}, "axolotl": {"seed": 1}})
    build_config(spec, tmp_path / "run", validate=False)
    assert load_spec(tmp_path / "run") == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "full", "cluster": "1x24gb"}, "does not fit"),
        ({"global_batch_size": 100}, "cannot be divided over 12 GPUs"),
        ({"axolotl": {"wieght_decay": 0.1}}, "did you mean 'weight_decay'"),
        ({"axolotl": {"fsdp_config": {"state_dict_type": "FULL_STATE_DICT"}}}, "state_dict_type"),
        ({"axolotl": {"optimizer": "adamw_bnb_8bit"}}, "8bit"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    reports: list[str] = []
    with pytest.raises(InputError, match=message):
        build_config(Spec.model_validate(_SPEC | change), tmp_path / "run", report=reports.append)
    assert reports == []
    assert not list(tmp_path.iterdir())
