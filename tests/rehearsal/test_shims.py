"""The shims stand in for what is missing: an update that mends or moves it fails here."""

from __future__ import annotations

import inspect

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
