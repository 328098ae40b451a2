"""What keeps FSDP2 under Axolotl and accelerate from running on CPUs, set right.

Only the rehearsal loads this. Each shim names the line that it stands in for; a test fails when
an update makes one unnecessary or wrong.
"""

from __future__ import annotations

import os
from datetime import timedelta
from importlib import import_module
from typing import Any

TIMEOUT_VARIABLE = "MULTITASK_REHEARSAL_TIMEOUT"


def install() -> None:
    """Install all shims in this process; before a trainer is made."""
    mesh_on_cpu()
    fsdp_on_cpu()
    models_on_cpu()
    bfloat16_on_cpu()
    deepspeed_on_cpu()
    deepspeed_over_gloo()
    deepspeed_without_shared_memory()


def set_timeout() -> None:
    """In a rank: let collectives fail soon, where the environment says so."""
    if os.environ.get(TIMEOUT_VARIABLE):
        collectives_time_out(float(os.environ[TIMEOUT_VARIABLE]))


def mesh_on_cpu() -> None:
    """Build the device mesh on the CPU.

    Axolotl calls ``build_device_mesh("cuda")`` with the literal
    (``axolotl/utils/distributed.py``, ``build_parallelism_config``), and so does accelerate.
    """
    from accelerate.parallelism_config import ParallelismConfig

    original = ParallelismConfig.build_device_mesh

    def build(self: Any, device_type: str) -> Any:
        return original(self, "cpu" if device_type == "cuda" else device_type)

    ParallelismConfig.build_device_mesh = build


def fsdp_on_cpu() -> None:
    """Let accelerate take FSDP where there are several CPU processes.

    ``AcceleratorState.__init__`` (``accelerate/state.py``) turns only GPU-like multi-device types
    into ``FSDP``; ``MULTI_CPU`` is left out of its list.
    """
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    original = AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        fresh = not AcceleratorState._shared_state
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        wanted = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
        if fresh and self.distributed_type == DistributedType.MULTI_CPU and wanted:
            self.distributed_type = DistributedType.FSDP
            if self._mixed_precision != "no" and fsdp_plugin is not None:
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init


def bfloat16_on_cpu() -> None:
    """Let the trainer compute in bfloat16, so that a rehearsal holds what the cluster holds.

    ``transformers/training_args.py`` (``_validate_args``) wants a GPU for it, unless it is told to
    use CPUs, and then leaves FSDP out.
    """
    import transformers.training_args

    transformers.training_args.is_torch_bf16_gpu_available = lambda: True


def deepspeed_on_cpu() -> None:
    """Let accelerate take DeepSpeed where there is no GPU.

    ``PartialState._prepare_backend`` (``accelerate/state.py``) has a backend for CPUs only where it
    was told to use them, and then leaves DeepSpeed out; untold, it finds no backend at all.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    original = PartialState._prepare_backend

    def prepare(self: Any, *args: Any, **kwargs: Any) -> Any:
        backend, distributed = original(self, *args, **kwargs)
        wanted = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
        if wanted and distributed == DistributedType.NO:
            return "gloo", DistributedType.DEEPSPEED
        return backend, distributed

    PartialState._prepare_backend = prepare


def deepspeed_over_gloo() -> None:
    """Let DeepSpeed gather into views over gloo.

    Its optimizers gather into slices made by ``split`` (``runtime/utils.py``,
    ``all_gather_dp_groups``). NCCL writes into them; gloo's collective writes through autograd,
    which forbids it for such views. Detached, they are the same memory.
    """
    from deepspeed.comm.torch import TorchBackend

    original = TorchBackend.all_gather_into_tensor

    def gather(self: Any, output_tensor: Any, input_tensor: Any, **kwargs: Any) -> Any:
        return original(self, output_tensor.detach(), input_tensor.detach(), **kwargs)

    TorchBackend.all_gather_into_tensor = gather


def deepspeed_without_shared_memory() -> None:
    """Let DeepSpeed do without the kernel that it would compile for CPUs alone.

    ``deepspeed/comm/torch.py`` (``build_shm_op``) compiles a reduction over shared memory that only
    inference calls. No GPU machine has it; here it takes a compiler and minutes, and a compilation
    that was killed leaves a lock behind on which every later one waits for ever
    (``torch/utils/file_baton.py``, ``wait``).
    """
    # Not ``deepspeed.comm.torch``: that name is bound to torch itself.
    backend: Any = import_module("deepspeed.comm.torch")
    backend.build_shm_op = lambda: None


def models_on_cpu() -> None:
    """Load a model onto the CPU where Axolotl names a device by its number alone.

    With several processes and no FSDP, ``axolotl/utils/config/__init__.py`` (``normalize_config``)
    sets the device map to ``{"": LOCAL_RANK}`` after it was told that accelerate places the model;
    a bare number is a device of the accelerator, and there is none.
    """
    from axolotl.loaders.model import ModelLoader

    original = ModelLoader._set_device_map_config

    def set_device_map(self: Any) -> None:
        device_map = self.cfg.device_map
        if isinstance(device_map, dict) and isinstance(device_map.get(""), int):
            self.cfg.device_map = {"": "cpu"}
        original(self)

    ModelLoader._set_device_map_config = set_device_map


def collectives_time_out(seconds: float) -> None:
    """Let collectives fail after some seconds instead of half an hour, where a fault needs it.

    The default process group takes its timeout from Axolotl's variable
    (``axolotl/utils/distributed.py``); those of a mesh take the constant that
    ``torch/distributed/distributed_c10d.py`` gives to every new group.
    """
    from torch.distributed import distributed_c10d

    os.environ["AXOLOTL_NCCL_TIMEOUT"] = str(round(seconds))

    def timeout(_backend: Any) -> timedelta:
        return timedelta(seconds=seconds)

    distributed_c10d._get_default_timeout = timeout
