"""Check a written ``axolotl.yaml`` with Axolotl's own validator, for the target's hardware.

Axolotl takes 8 seconds of processor time to import and reads the environment, so it runs in a
process of its own: this module is also that process. Once imported it validates a configuration
in milliseconds, so the process can be started ahead of other work and asked many times.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Self

from multitask.cluster import Cluster
from multitask.errors import InputError, did_you_mean
from multitask.quiet import set_library_variables

# A launcher's variables would make Axolotl think that this process is part of a training.
_LAUNCHER_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def axolotl_installed() -> bool:
    """Whether the `train` extra is there."""
    return find_spec("axolotl") is not None


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which a process does not take itself for a part of a training."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _LAUNCHER_VARIABLES and not name.startswith("ACCELERATE_")
    }


class AxolotlValidator:
    """Axolotl's validator in a process of its own, which starts at once and is asked later.

    Use it as a context manager: the process ends with the block.
    """

    def __init__(self) -> None:
        """Start the process; it imports Axolotl while the caller does other work."""
        environment = without_launcher(os.environ)
        set_library_variables(environment)
        environment["HF_HUB_OFFLINE"] = "1"
        self._log = tempfile.TemporaryFile(  # noqa: SIM115  closed by close()
            "w+", encoding="utf-8", errors="replace"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "multitask.runners.axolotl.validate"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, also in the middle of its start."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def validate(self, path: Path, cluster: Cluster) -> tuple[str, ...]:
        """Run Axolotl's validator on a file.

        Args:
            path: ``axolotl.yaml``.
            cluster: The target, whose capabilities count, not this machine's.

        Returns:
            What Axolotl warns of, in its words.

        Raises:
            InputError: A key is unknown to Axolotl, a plugin cannot be imported, or its
                validator refuses the configuration.
        """
        answer = self._ask({"path": str(path), "capabilities": capabilities(cluster)}, path.name)
        for plugin in answer["missing_plugins"]:
            raise InputError(
                f"the plugin '{plugin}' cannot be imported, and Axolotl would train without it",
                where=f"{path.name}: plugins",
                fix="install the package it is in, or correct its name",
            )
        for key in answer["unknown"]:
            hint = did_you_mean(key, answer["known"])
            raise InputError(
                f"Axolotl does not know the key '{key}'",
                where="key 'axolotl'",
                fix=hint if hint.startswith("did you mean") else "remove it",
            )
        if answer["errors"]:
            raise _refusal(answer["errors"], path.name)
        return tuple(answer["warnings"])

    def validate_accelerate(self, path: Path) -> None:
        """Read ``accelerate.yaml`` with accelerate's own loader.

        Raises:
            InputError: It has keys that accelerate does not know, or lacks some.
        """
        answer = self._ask({"accelerate": str(path)}, path.name)
        if answer["error"]:
            raise InputError(
                f"accelerate refuses the file: {answer['error']}",
                where=path.name,
                fix="build the run again; report it if nobody edited the file",
            )

    def _ask(self, question: dict[str, Any], name: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died at its start; its log says why
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            tail = "\n".join(self._log.read().strip().splitlines()[-8:])
            raise InputError(
                f"Axolotl's validator did not answer:\n{tail}",
                where=name,
                fix="run `multitask build-config --no-validate` and start Axolotl by hand to see "
                "more",
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


def capabilities(cluster: Cluster) -> dict[str, Any]:
    """The target's hardware in the terms of Axolotl's ``validate_config``."""
    digits = (cluster.compute_capability or "").removeprefix("sm_")
    return {
        "bf16": not cluster.on_cpu,
        "fp8": digits.isdigit() and int(digits) >= 90,
        "tf32": not cluster.on_cpu,
        "n_gpu": cluster.world_size,
        "n_node": cluster.nodes,
        "compute_capability": cluster.compute_capability,
    }


def _refusal(errors: list[dict[str, str]], name: str) -> InputError:
    """One message from Axolotl's complaints: the first in full, and how many more there are."""
    key, message = errors[0]["key"], errors[0]["message"]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    fix = f"change or remove '{key}'" if key else "change the keys that it names"
    return InputError(
        f"Axolotl refuses the configuration: {message}{more}",
        where=f"{name}: {key}" if key else name,
        fix=f"{fix}, in the spec or under its 'axolotl'",
    )


def _serve(questions: IO[str], answers: IO[str]) -> None:
    """What the process does: import Axolotl, then answer one question a line."""
    import axolotl.utils.config  # noqa: F401

    for line in questions:
        question = json.loads(line)
        before = dict(os.environ)
        if "accelerate" in question:
            answer = _accelerate_here(question["accelerate"])
        else:
            answer = _validate_here(question["path"], question["capabilities"])
        os.environ.clear()
        os.environ.update(before)  # plugins set variables when they are registered
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _validate_here(path: str, target: dict[str, Any]) -> dict[str, Any]:
    """Load the file's plugins, validate it, and say how it went."""
    import torch
    import yaml
    from axolotl.integrations.base import PluginManager
    from axolotl.integrations.config import merge_input_args
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault
    from axolotl.utils.schemas.config import AxolotlInputConfig

    config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    wrapped = DictDefault(config)
    wrapped.axolotl_config_path = path
    lists = ("missing_plugins", "unknown", "known", "errors", "warnings")
    result: dict[str, Any] = {name: [] for name in lists}
    manager = PluginManager.get_instance()
    manager.plugins.clear()
    with _collected_warnings(result["warnings"]):
        try:
            # As axolotl.cli.config.prepare_plugins does, whose module imports the whole trainer.
            for plugin in config.get("plugins") or []:
                manager.register(plugin)
            listed = set(config.get("plugins") or [])
            result["missing_plugins"] = sorted(listed - set(manager.plugins))
            for loaded in manager.plugins.values():
                loaded.register(wrapped)
            schema = merge_input_args()[1] if manager.plugins else AxolotlInputConfig
            known = set(schema.model_fields)
            known |= {str(f.alias) for f in schema.model_fields.values() if f.alias}
            result["unknown"] = sorted(set(config) - known)
            if result["unknown"] or result["missing_plugins"]:
                return result | {"known": sorted(known)}
            validate_config(
                wrapped,
                capabilities=target,
                env_capabilities={"torch_version": torch.__version__.split("+")[0]},
            )
        # Validators and plugins raise what they like, DeprecationWarning and AttributeError too.
        except Exception as error:  # noqa: BLE001
            result["errors"] = _complaints(error)
    return result


def _accelerate_here(path: str) -> dict[str, Any]:
    """Load a file as ``accelerate launch --config_file`` does."""
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        load_config_from_file(path)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        return {"error": " ".join(str(error).split())}
    return {"error": None}


def _complaints(error: BaseException) -> list[dict[str, str]]:
    """Each complaint with the key it is about, empty where a validator looked at several."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return [{"key": "", "message": " ".join(str(error).split()) or type(error).__name__}]
    return [
        {
            "key": ".".join(str(part) for part in detail["loc"]),
            "message": " ".join(detail["msg"].removeprefix("Value error, ").split()),
        }
        for detail in error.errors(include_url=False, include_context=False)
    ]


@contextmanager
def _collected_warnings(messages: list[str]) -> Iterator[None]:
    """Collect what Axolotl's validators log as warnings."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = " ".join(record.getMessage().split())
            if text not in messages:
                messages.append(text)

    logger = logging.getLogger("axolotl.utils.schemas")
    collector = Collector(logging.WARNING)
    logger.addHandler(collector)
    try:
        yield
    finally:
        logger.removeHandler(collector)


def _main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Axolotl and its imports print; only answers may reach the caller
    _serve(sys.stdin, answers)


if __name__ == "__main__":
    _main()
