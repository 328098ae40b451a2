"""A user's own cluster file."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.cluster import load_cluster
from multitask.errors import InputError
from multitask.resources import config_names
from multitask.spec import load_spec

_OWN = """\
description: our two nodes
nodes: 2
gpus_per_node: 2
gpu: L40S
memory_gb: 48
compute_capability: sm_89
bf16_tflops: 362
intra_node_gb_s: 32
inter_node_gb_s: 12
"""


def test_a_file_of_the_user_s_is_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text(_OWN)
    (tmp_path / "spec.yaml").write_text("model: a/b\ntasks: [banking77]\ncluster: ours.yaml\n")
    cluster = load_cluster(load_spec(tmp_path / "spec.yaml").cluster)
    assert (cluster.name, cluster.world_size, cluster.usd_per_hour) == ("ours", 4, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("nodes: 2", "nods: 2"), "did you mean 'nodes'"),
        (("memory_gb: 48\n", ""), "needs memory_gb"),
        (("sm_89", "ada"), "compute_capability"),
        (("nodes: 2", "nodes: 0"), "greater than or equal to 1"),
        ((_OWN, "- a list"), "a mapping of keys"),
        ((_OWN, "nodes: ["), "not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text(_OWN.replace(*change))
    with pytest.raises(InputError, match=message) as error:
        load_cluster(str(path))
    assert str(path) in str(error.value)


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(InputError, match="no such file"):
        load_cluster("/nowhere/ours.yaml")


@pytest.mark.parametrize("name", config_names("clusters"))
def test_shipped_gpus_have_a_dated_price(name: str) -> None:
    cluster = load_cluster(name)
    assert cluster.on_cpu or (cluster.price is not None and cluster.price.date >= "2026")
