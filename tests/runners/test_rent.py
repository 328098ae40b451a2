"""The files for dstack and SkyPilot, read by dstack and SkyPilot themselves."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.cluster import load_cluster, load_method
from multitask.models import model_info
from multitask.planning.decide import decide
from multitask.planning.setup import Setup
from multitask.resources import config_names
from multitask.runners.rent import GPUS, find_gpu, rental_files, write_rental_files
from multitask.spec import Spec, load_spec
from tests.engines import engine_python, parse
from tests.toy_run import multitask

_MODEL = "meta-llama/Llama-3.1-8B-Instruct"
_CLUSTERS = [name for name in config_names("clusters") if not load_cluster(name).on_cpu]
_FOUR_A100 = "3x4-a100-80gb"
_EIGHT_A100 = "2x8-a100-80gb"


def _setup(cluster: str, method: str = "lora", **keys: Any) -> Setup:
    spec = Spec(model=_MODEL, tasks=("banking77",), cluster=cluster, method=method, **keys)
    return decide(spec, model_info(_MODEL, Path("/nowhere")), refuse=False)


def _write(folder: Path, setup: Setup) -> dict[str, Path]:
    """A run directory with the engines' files of a setup."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train.jsonl").write_text("{}\n")
    (folder / "spec.yaml").write_text(setup.spec.to_yaml())
    files = rental_files(setup, folder)
    (folder / "launch").mkdir()
    for name, content in files.items():
        (folder / "launch" / name).write_text(content)
    return {name: folder / "launch" / name for name in files}


@dataclass(frozen=True)
class Written:
    """Every shipped cluster and method, with what the engines make of their files."""

    setups: dict[Path, Setup]
    dstack: dict[Path, dict[str, Any]]
    sky: dict[Path, dict[str, Any]]

    def of(self, cluster: str, name: str, method: str = "lora") -> dict[str, Any]:
        """What an engine understood of one file."""
        read = self.sky if name == "sky.yml" else self.dstack
        (found,) = [
            content
            for path, content in read.items()
            if path.name == name and path.parts[-3] == f"{cluster}-{method}"
        ]
        return found


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    root = tmp_path_factory.mktemp("rented")
    setups: dict[Path, Setup] = {}
    for cluster in _CLUSTERS:
        for method in config_names("methods"):
            setup = _setup(cluster, method, image="docker.io/me/multitask:1", hub={"repo": "me/x"})
            for path in _write(root / f"{cluster}-{method}", setup).values():
                setups[path] = setup
    by_sky = [path for path in setups if path.name == "sky.yml"]
    by_dstack = [path for path in setups if path.name != "sky.yml"]
    home = root / "home"
    home.mkdir()
    return Written(setups, parse("dstack", by_dstack, home), parse("sky", by_sky, home))


def test_both_engines_accept_every_cluster_and_method(written: Written) -> None:
    read = written.dstack | written.sky
    assert {path: content["error"] for path, content in read.items() if "error" in content} == {}
    tasks = [path for path in read if path.name in ("dstack.yml", "sky.yml")]
    assert len(tasks) == 2 * len(_CLUSTERS) * len(config_names("methods"))


def test_the_engines_understand_the_cluster(written: Written) -> None:
    for path, setup in written.setups.items():
        cluster = setup.cluster
        if path.name == "dstack.yml":
            task = written.dstack[path]
            assert (task["nodes"] or 1) == cluster.nodes
            gpu = task["resources"]["gpu"]
            assert gpu["count"] == {"min": cluster.gpus_per_node, "max": cluster.gpus_per_node}
            assert gpu["memory"]["min"] == cluster.memory_gb
            assert task["gpu_known"] == [True]  # gpuhunt's list, from which dstack takes offers
            assert task["valid_name"]
            assert task["resources"]["shm_size"] == 16
        elif path.name == "sky.yml":
            task = written.sky[path]
            assert task["nodes"] == cluster.nodes
            for accelerators in task["accelerators"]:
                assert list(accelerators.values()) == [cluster.gpus_per_node]


def test_the_limits_follow_the_estimate_and_the_price(written: Written) -> None:
    setup, task = _setup(_EIGHT_A100), written.of(_EIGHT_A100, "dstack.yml")
    assert setup.estimate is not None
    assert setup.cluster.usd_per_hour is not None
    hours = task["max_duration"] / 3600
    assert 2 * setup.estimate.hours < hours < 2 * setup.estimate.hours + 2
    a_node = setup.cluster.usd_per_hour / setup.cluster.nodes
    assert task["max_price"] == pytest.approx(1.5 * a_node)
    assert task["retry"]["on_events"] == ["no-capacity", "interruption", "error"]
    assert task["stop_criteria"] == "master-done"
    # dstack's server refuses a window that is longer than it keeps metrics
    # (server/services/runs/spec.py, SERVER_METRICS_RUNNING_TTL_SECONDS).
    assert task["utilization_policy"]["time_window"] <= 3600
    assert f"at most ${hours * task['max_price'] * 2:,.2f}" in _head(setup, "dstack.yml")


def test_runpod_rents_clusters_of_eight_and_others_the_rest(written: Written) -> None:
    eight = written.of(_EIGHT_A100, "dstack.yml")
    assert eight["backends"] == ["runpod"]
    volume = written.of(_EIGHT_A100, "dstack-volume.yml")
    assert (volume["type"], volume["backend"]) == ("volume", "runpod")
    assert eight["volumes"] == [{"name": volume["name"], "path": "/workspace/data"}]
    # Several nodes are rented in a fleet of a cluster alone (server/services/runs/plan.py).
    fleet = written.of(_EIGHT_A100, "dstack-fleet.yml")
    assert (fleet["type"], fleet["placement"], fleet["backends"]) == (
        "fleet",
        "cluster",
        ["runpod"],
    )
    assert fleet["nodes"] == {"min": 0, "max": 2}
    assert written.of("1x8-a100-80gb", "dstack-fleet.yml")["placement"] is None
    four = written.of(_FOUR_A100, "dstack.yml")
    assert four["backends"] == ["gcp", "azure"]
    assert four["volumes"] == []
    assert four["env"]["MULTITASK_NFS"] is None  # a share of the user's, by name
    assert written.of(_FOUR_A100, "sky.yml")["clouds"] == ["Azure", "GCP"]
    head = _head(_setup(_FOUR_A100), "dstack.yml")
    assert "a2-ultragpu-4g" in head
    assert "NC96ads_A100_v4" in head


def test_secrets_are_named_and_never_written(
    written: Written, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = "hf_" + "x1Y2z3" * 6
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setenv("WANDB_API_KEY", secret)
    setup = _setup(_EIGHT_A100, hub={"repo": "me/x"}, tracking={"wandb": {"project": "p"}})
    for path in _write(tmp_path / "run", setup).values():
        assert secret not in path.read_text()
    content = yaml.safe_load((tmp_path / "run" / "launch" / "sky.yml").read_text())
    assert content["secrets"] == {"HF_TOKEN": None, "WANDB_API_KEY": None}
    assert written.of(_EIGHT_A100, "dstack.yml")["env"]["HF_TOKEN"] is None


_WRONG = {
    "dstack": [
        ("dstack.yml", "max_price:", "max_prize:"),
        ("dstack.yml", "time_window: 1h", "time_window: 1m"),
        ("dstack-volume.yml", "region:", "regions:"),
    ],
    "sky": [
        ("sky.yml", "num_nodes:", "num_node:"),
        ("sky.yml", "accelerators:", "accelerator:"),
    ],
}


@pytest.mark.parametrize("engine", _WRONG)
def test_a_wrong_key_is_refused(tmp_path: Path, engine: str) -> None:
    files = _write(tmp_path / "run", _setup(_EIGHT_A100))
    paths = []
    for number, (name, was, wrong) in enumerate(_WRONG[engine]):
        text = files[name].read_text()
        assert was in text
        paths.append(tmp_path / f"{number}-{name}")
        paths[-1].write_text(text.replace(was, wrong))
    read = parse(engine, paths, tmp_path)
    assert [path for path in paths if "error" not in read[path]] == []


def test_every_node_runs_one_command_and_a_hopeless_failure_is_not_paid_for_again(
    written: Written, tmp_path: Path
) -> None:
    """dstack retries on any exit code but 0, and bounds neither the tries nor their sum."""
    (command,) = written.of(_EIGHT_A100, "dstack.yml")["commands"]
    assert command.startswith("bash -c 'multitask job /workspace/data/runs/multitask-")
    assert "multitask job" in written.of(_EIGHT_A100, "sky.yml")["run"]
    tool = tmp_path / "multitask"
    for code, ends in ((0, 0), (1, 0), (2, 0), (127, 0), (130, 1), (137, 1)):
        tool.write_text(f"#!/bin/sh\nexit {code}\n")
        tool.chmod(0o755)
        done = subprocess.run(
            ["bash", "-c", command], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False
        )
        assert done.returncode == ends, code


def test_the_run_s_folder_on_the_volume_is_that_of_its_content(tmp_path: Path) -> None:
    """Another run of the same name must not go on from this one's checkpoints."""
    one = _write(tmp_path / "one", _setup(_EIGHT_A100))["dstack.yml"].read_text()
    same = _write(tmp_path / "same", _setup(_EIGHT_A100))["dstack.yml"].read_text()
    other = _write(tmp_path / "other", _setup(_EIGHT_A100, seed=7))["dstack.yml"].read_text()
    assert one == same
    assert one != other


def test_no_image_is_said_and_no_registry_has_it(tmp_path: Path) -> None:
    text = _write(tmp_path / "run", _setup(_EIGHT_A100))["dstack.yml"].read_text()
    assert "NO IMAGE" in text
    image = yaml.safe_load(text)["image"]
    assert image != image.lower()  # registries' names are in small letters: it fails before renting


def test_dstack_s_catalogue_knows_every_gpu_and_memory(tmp_path: Path) -> None:
    files = []
    for gpu in GPUS:
        task = {"type": "task", "name": "it", "commands": ["true"]}
        resources = {"gpu": f"{gpu.name}:{gpu.memory_gb}GB:1"}
        files.append(tmp_path / f"{gpu.sky}.yml")
        files[-1].write_text(yaml.safe_dump(task | {"resources": resources}))
    read = parse("dstack", files, tmp_path)
    assert {path.stem for path, found in read.items() if found.get("gpu_known") != [True]} == set()


def test_gpus_have_one_name_each_in_both_engines() -> None:
    assert len({(gpu.name, gpu.memory_gb) for gpu in GPUS}) == len(GPUS)
    assert len({gpu.sky for gpu in GPUS}) == len(GPUS)
    for cluster in _CLUSTERS:
        assert find_gpu(load_cluster(cluster)) in GPUS


def _own_cluster(folder: Path, **changes: Any) -> Path:
    content: dict[str, Any] = load_cluster(_EIGHT_A100).model_dump(exclude={"name"}) | changes
    path = folder / "ours.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpu": "A100X-SXM4"}, ("'A100X-SXM4' is no GPU", "did you mean 'A100'", "key 'gpu'")),
        ({"memory_gb": 60}, ("cannot be rented", "give 40 or 80", "key 'memory_gb'")),
        ({"description": "ours\ntouch /tmp/pwned"}, ("line break", "key 'description'")),
        ({"gpu": "A100\x1b[2J"}, ("line break or control character", "key 'gpu'")),
    ],
)
def test_a_cluster_that_cannot_be_rented_ends_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    _own_cluster(tmp_path, **changes)
    content = {"model": _MODEL, "tasks": ["text_claims"], "sample": True, "cluster": "ours.yaml"}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(content))
    done = multitask("build-config", tmp_path / "spec.yaml", "--out", tmp_path / "run")
    assert done.returncode == 2, done.stderr
    for word in words:
        assert word in done.stderr
    assert done.stderr.count("error: ") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.yaml", "spec.yaml"]


def test_no_gitignore_keeps_a_file_of_the_run_at_home(tmp_path: Path) -> None:
    """Runs commonly lie in a folder that git ignores; both engines then leave files out."""
    root = tmp_path / "runs" / "first"
    (root / "data").mkdir(parents=True)
    (root / "data" / "train.jsonl").write_text("{}\n")
    write_rental_files(_setup(_EIGHT_A100), root)
    (tmp_path / ".gitignore").write_text("*\n")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    archive = (
        "import io, sys, tarfile\n"
        "from dstack._internal.utils.files import create_file_archive\n"
        "create_file_archive(sys.argv[1], file := io.BytesIO())\n"
        "file.seek(0)\n"
        "print(tarfile.open(fileobj=file).getnames())"
    )
    excluded = (
        "import sys\n"
        "from sky.data.storage_utils import get_excluded_files\n"
        "print(get_excluded_files(sys.argv[1]))"
    )
    packed, left_out = (
        subprocess.run(
            [engine_python(engine), "-c", program, root / "data"],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home")},
            check=True,
        ).stdout.splitlines()[-1]
        for engine, program in (("dstack", archive), ("sky", excluded))
    )
    assert "'data/train.jsonl'" in packed
    assert left_out == "[]"


@pytest.mark.parametrize("name", ["a", "1st", "Two words.v2", "7-", "x" * 90])
def test_any_name_becomes_one_that_dstack_takes(tmp_path: Path, name: str) -> None:
    files = _write(tmp_path / "run", _setup(_EIGHT_A100, name=name))
    for path in files.values():
        called = yaml.safe_load(path.read_text())["name"]
        assert re.fullmatch(r"[a-z][a-z0-9-]{1,40}", called)  # core/services/__init__.py


def test_machines_of_one_s_own_may_have_any_gpu(tmp_path: Path) -> None:
    path = _own_cluster(tmp_path, gpu="RTX A5500", price=None)
    assert find_gpu(load_cluster(str(path))) is None
    assert rental_files(_setup(str(path)), tmp_path) == {}


def test_a_cluster_file_goes_along_with_the_run(tmp_path: Path) -> None:
    """The machines do not have the file that the spec was written with."""
    path = _own_cluster(tmp_path)
    content = {"model": _MODEL, "tasks": ["text_claims"], "sample": True, "cluster": path.name}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(content))
    out = tmp_path / "run"
    done = multitask("build-config", tmp_path / "spec.yaml", "--out", out, "--no-validate")
    assert done.returncode == 0, done.stderr
    before = load_cluster(str(path))
    path.unlink()
    moved = out.rename(tmp_path / "moved")
    assert load_cluster(load_spec(moved).cluster) == before
    assert load_method(load_spec(moved).method).name == "lora"


def _head(setup: Setup, name: str) -> str:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        return _write(Path(folder) / "run", setup)[name].read_text().partition("\ntype:")[0]
