"""Check a written ``axolotl.yaml`` with Axolotl's own validator, for the target's hardware.

Axolotl takes some 15 seconds to import and reads the environment, so it runs in a process of its
own: this module is also that process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from multitask.cluster import Cluster
from multitask.errors import InputError, did_you_mean

_RESULT = "multitask-validation:"


def axolotl_installed() -> bool:
    """Whether the `train` extra is there."""
    return find_spec("axolotl") is not None


def validate_axolotl(path: Path, cluster: Cluster) -> None:
    """Run Axolotl's validator on a file.

    Args:
        path: ``axolotl.yaml``.
        cluster: The target, whose capabilities count, not this machine's.

    Raises:
        InputError: A key is unknown to Axolotl, or its validator refuses the configuration.
    """
    environment = dict(os.environ) | {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    # A launcher's variables would make Axolotl think that this process is part of a training.
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-m", "multitask.runners.validate", str(path), _capabilities(cluster)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith(_RESULT)]
    if not answers:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise InputError(
            f"Axolotl's validator did not answer:\n{tail}",
            where=path.name,
            fix="run `multitask build-config --no-validate` and start Axolotl by hand to see more",
        )
    answer = json.loads(answers[-1].removeprefix(_RESULT))
    for key in answer["unknown"]:
        hint = did_you_mean(key, answer["known"])
        raise InputError(
            f"Axolotl does not know the key '{key}'",
            where="key 'axolotl'",
            fix=hint if hint.startswith("did you mean") else "remove it",
        )
    if answer["error"]:
        raise InputError(f"Axolotl refuses the configuration: {answer['error']}", where=path.name)


def _capabilities(cluster: Cluster) -> str:
    return json.dumps(
        {
            "bf16": not cluster.on_cpu,
            "fp8": cluster.compute_capability == "sm_90",
            "tf32": not cluster.on_cpu,
            "n_gpu": cluster.world_size,
            "n_node": cluster.nodes,
            "compute_capability": cluster.compute_capability,
        }
    )


def _validate_here(path: str, capabilities: str) -> dict[str, Any]:
    """What the child process does: load Axolotl, validate, and say how it went."""
    import torch
    import yaml
    from axolotl.cli.config import prepare_plugins
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault
    from axolotl.utils.schemas.config import AxolotlInputConfig

    config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    known = set(AxolotlInputConfig.model_fields)
    known |= {str(f.alias) for f in AxolotlInputConfig.model_fields.values() if f.alias}
    result: dict[str, Any] = {"unknown": sorted(set(config) - known), "known": [], "error": None}
    if result["unknown"]:
        result["known"] = sorted(known)
        return result
    wrapped = DictDefault(config)
    wrapped.axolotl_config_path = path
    try:
        prepare_plugins(wrapped)
        validate_config(
            wrapped,
            capabilities=json.loads(capabilities),
            env_capabilities={"torch_version": torch.__version__.split("+")[0]},
        )
    except (ValueError, TypeError, OSError, ImportError) as error:  # pydantic's is a ValueError
        result["error"] = " ".join(str(error).split())
    return result


if __name__ == "__main__":
    print(_RESULT + json.dumps(_validate_here(sys.argv[1], sys.argv[2])))  # noqa: T201
