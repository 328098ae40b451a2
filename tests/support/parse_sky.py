"""Run by SkyPilot's own interpreter: read tasks as ``sky launch`` does."""

import json
import os
import sys
from pathlib import Path

import sky


def read(file: str) -> dict:
    os.chdir(Path(file).parent.parent)  # its paths are the run's
    try:
        task = sky.Task.from_yaml(file)
    except ValueError as error:
        return {"error": str(error)}
    resources = task.resources if isinstance(task.resources, (list, set)) else [task.resources]
    return {
        "nodes": task.num_nodes,
        "accelerators": [one.accelerators for one in resources],
        "clouds": sorted(str(one.cloud) for one in resources),
        "secrets": {name: str(value) for name, value in task.secrets.items()},
        "run": task.run,
        "setup": task.setup,
        "file_mounts": task.file_mounts,
        "storage_mounts": {path: str(one.mode) for path, one in task.storage_mounts.items()},
    }


print(json.dumps({file: read(file) for file in sys.argv[1:]}))
