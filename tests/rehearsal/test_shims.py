"""The shims stand in for what is missing: an update that mends or moves it fails here."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

pytest.importorskip("axolotl")


def test_axolotl_still_names_cuda_for_the_mesh() -> None:
    from axolotl.utils import distributed

    source = inspect.getsource(distributed.build_parallelism_config)
    assert 'build_device_mesh("cuda")' in source, "the shim mesh_on_cpu may be unnecessary"


def test_accelerate_still_leaves_cpus_out_of_fsdp() -> None:
    from accelerate.state import AcceleratorState

    source = inspect.getsource(AcceleratorState.__init__)
    assert "DistributedType.FSDP" in source, "accelerate decides elsewhere: see fsdp_on_cpu"
    assert "MULTI_CPU" not in source, "the shim fsdp_on_cpu may be unnecessary"


def test_axolotl_still_names_a_device_by_its_number() -> None:
    from axolotl.loaders.model import ModelLoader
    from axolotl.utils import config

    source = inspect.getsource(config.normalize_config)
    assert 'cfg.device_map = {"": int(os.environ.get("LOCAL_RANK", 0))}' in source, (
        "the shim models_on_cpu may be unnecessary"
    )
    source = inspect.getsource(ModelLoader._set_device_map_config)
    assert "self.cfg.device_map" in source, "see models_on_cpu"


def test_accelerate_still_leaves_deepspeed_out_where_it_uses_cpus() -> None:
    from accelerate.state import PartialState

    assert "if not cpu and" in inspect.getsource(PartialState.__init__), "see deepspeed_on_cpu"
    source = inspect.getsource(PartialState._prepare_backend)
    assert "DEEPSPEED" not in source, "the shim deepspeed_on_cpu may be unnecessary"


def test_gloo_still_refuses_to_gather_into_slices() -> None:
    """The failure itself, with one process: when it is gone, so may be the shim."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        whole = torch.zeros(4, requires_grad=True).clone()
        part = whole.split(2)[0]
        with pytest.raises(RuntimeError, match="view"):
            dist.all_gather_into_tensor(part, torch.ones(2))
        with torch.no_grad():
            dist.all_gather_into_tensor(part.detach(), torch.ones(2))
        assert whole.tolist() == [1, 1, 0, 0]
    finally:
        dist.destroy_process_group()


def test_deepspeed_still_compiles_a_reduction_for_cpus() -> None:
    from deepspeed.comm.torch import TorchBackend, build_shm_op

    assert "builder.load()" in inspect.getsource(build_shm_op), (
        "the shim deepspeed_without_shared_memory may be unnecessary"
    )
    source = inspect.getsource(TorchBackend)
    assert "self.shm_comm_op = build_shm_op()" in source, "see deepspeed_without_shared_memory"
    assert source.count("shm_comm_op.") == 1, "more than its initialisation may be called"


def test_torch_still_cannot_load_what_is_mapped_to_a_numbered_cpu(tmp_path: Path) -> None:
    import torch

    torch.save(torch.ones(1), tmp_path / "x.pt")
    with pytest.raises(RuntimeError, match="cpu:0"):
        torch.load(tmp_path / "x.pt", map_location=torch.device("cpu", 0))


def test_new_groups_still_ask_for_their_default_timeout() -> None:
    from torch.distributed import distributed_c10d

    source = inspect.getsource(distributed_c10d._new_group_with_tag)
    assert "_get_default_timeout" in source, "see collectives_time_out"


def test_only_the_rehearsal_loads_them() -> None:
    """A real training must not be changed by them."""
    import subprocess
    import sys

    code = (
        "import sys, multitask.plugin, multitask.training.train\n"
        "assert not [m for m in sys.modules if m.startswith('multitask.rehearsal')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
