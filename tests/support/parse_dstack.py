"""Run by dstack's own interpreter: parse files as ``dstack apply`` does."""

import json
import sys
from pathlib import Path

import gpuhunt
import yaml
from dstack._internal.core.errors import ConfigurationError
from dstack._internal.core.models.configurations import parse_apply_configuration
from dstack._internal.core.models.envs import EnvSentinel
from dstack._internal.core.services import is_valid_dstack_resource_name


def read(file: str) -> dict:
    try:
        parsed = parse_apply_configuration(yaml.safe_load(Path(file).read_text()))
    except ConfigurationError as error:
        return {"error": str(error)}
    content = json.loads(parsed.model_dump_json(exclude={"env"}))
    content["valid_name"] = is_valid_dstack_resource_name(parsed.name)
    if parsed.type == "task":
        env = parsed.env.items()
        content["env"] = {k: None if isinstance(v, EnvSentinel) else v for k, v in env}
        gpu = parsed.resources.gpu
        known = [(g.name, g.memory) for g in gpuhunt.KNOWN_NVIDIA_GPUS]
        content["gpu_known"] = [
            (name, gpu.memory.min) in known for name in gpu.name or () if gpu.memory
        ]
    return content


print(json.dumps({file: read(file) for file in sys.argv[1:]}))
