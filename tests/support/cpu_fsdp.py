"""FSDP2 over CPU processes, for tests: what accelerate 1.13 and Axolotl 0.19 lack for it.

An Axolotl plugin, so that it is loaded before the accelerator is made. Two things are changed:
the device mesh is asked for with the word "cuda", and several CPU processes are never taken for
FSDP. Processes are started by torchrun with ``ACCELERATE_USE_CPU=true``.
"""

from __future__ import annotations

from typing import Any

from accelerate.parallelism_config import ParallelismConfig
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from axolotl.integrations.base import BasePlugin


class CpuFsdpPlugin(BasePlugin):
    """Loads the changes."""

    def register(self, cfg: Any) -> None:
        build, begin = ParallelismConfig.build_device_mesh, AcceleratorState.__init__

        def build_on_cpu(self: Any, device_type: str) -> Any:
            return build(self, "cpu")

        def begin_with_fsdp(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
            begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
            if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
                self.distributed_type = DistributedType.FSDP
                self.fsdp_plugin = fsdp_plugin

        ParallelismConfig.build_device_mesh = build_on_cpu
        AcceleratorState.__init__ = begin_with_fsdp
