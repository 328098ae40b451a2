"""Axolotl's training under torchrun with FSDP2 over gloo, on CPUs.

Two places name CUDA where they mean the device: the mesh is asked for on "cuda", and accelerate
makes a sharded training of CUDA and its kin alone.
"""

from __future__ import annotations

import os
import runpy
import sys


def main() -> None:
    """Take the shims and run ``axolotl.cli.train`` with this process's arguments."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    from accelerate.parallelism_config import ParallelismConfig
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    build_mesh, set_up = ParallelismConfig.build_device_mesh, AcceleratorState.__init__

    def build_cpu_mesh(self: ParallelismConfig, _device: str) -> object:
        return build_mesh(self, "cpu")

    def set_up_fsdp(self: AcceleratorState, *args: object, **kwargs: object) -> None:
        set_up(self, *args, **kwargs)
        if os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
            self.distributed_type = DistributedType.FSDP
            plugin = kwargs.get("fsdp_plugin") or FullyShardedDataParallelPlugin()
            self.fsdp_plugin = plugin

    ParallelismConfig.build_device_mesh = build_cpu_mesh
    AcceleratorState.__init__ = set_up_fsdp
    sys.argv = ["axolotl.cli.train", *sys.argv[1:]]
    runpy.run_module("axolotl.cli.train", run_name="__main__")


if __name__ == "__main__":
    main()
