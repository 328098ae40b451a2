"""Write ``axolotl_schema.json`` from the installed Axolotl (``make schema``).

The file lets `schema` check a configuration in milliseconds and on machines
without Axolotl. It holds names and types only; a test compares it with the installed Axolotl.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

SNAPSHOT = Path(__file__).with_name("axolotl_schema.json")

# Plugins that Axolotl ships, by the last part of their name in `plugins`, and the class of the
# keys each adds. `llm_compressor` is left out: it cannot be imported without its own package.
_PLUGIN_KEYS = {
    "CutCrossEntropyPlugin": "cut_cross_entropy.CutCrossEntropyArgs",
    "DenseMixerPlugin": "densemixer.args.DenseMixerArgs",
    "ExpertParallelPlugin": "expert_parallel.ExpertParallelArgs",
    "GrokfastPlugin": "grokfast.GrokfastArgs",
    "KDPlugin": "kd.KDArgs",
    "KernelsPlugin": "kernels.KernelsArgs",
    "LigerPlugin": "liger.LigerArgs",
    "LMEvalPlugin": "lm_eval.LMEvalArgs",
    "SpectrumPlugin": "spectrum.SpectrumArgs",
    "SwanLabPlugin": "swanlab.SwanLabConfig",
}
_LEFT_OUT = ("title", "description", "default", "help", "examples")


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, with aliases kept and enums that JSON cannot hold as text."""

    def enum_schema(self, schema: Any) -> dict[str, Any]:
        """An enum's values; any text where a value is, say, a torch dtype (Axolotl parses it)."""
        if all(isinstance(member.value, str | int | float) for member in schema["members"]):
            return super().enum_schema(schema)
        return {"type": "string"}

    def model_field_schema(self, schema: Any) -> dict[str, Any]:
        """A field, with ``aliases``: other names it may be given by."""
        result = super().model_field_schema(schema)
        alias = schema.get("validation_alias")
        if isinstance(alias, str):
            result["aliases"] = [alias]
        elif isinstance(alias, list):
            result["aliases"] = [path[0] for path in alias]
        return result


def make_schema() -> dict[str, Any]:
    """Read the installed Axolotl's schema.

    Returns:
        ``axolotl``: its version; ``keys``: top-level keys as JSON Schema, with ``aliases`` and
        ``deprecated`` (``warned`` or ``refused``); ``definitions``: the nested ones; ``plugins``:
        the keys that each plugin adds.
    """
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from axolotl.utils.schemas.deprecated import DeprecatedParameters

    definitions: dict[str, Any] = {}
    keys = _keys(AxolotlInputConfig, definitions)
    for key, entry in keys.items():
        if entry.pop("deprecated", False):
            entry["deprecated"] = "warned"
        elif key in DeprecatedParameters.model_fields:
            entry["deprecated"] = "refused" if _is_refused(key) else "warned"
    keys |= {key: {"anyOf": [*options, {"type": "null"}]} for key, options in _judged_later()}
    plugins = {}
    for plugin, path in _PLUGIN_KEYS.items():
        module, _, name = path.rpartition(".")
        arguments = getattr(import_module(f"axolotl.integrations.{module}"), name)
        plugins[plugin] = _keys(arguments, definitions)
    return {
        "axolotl": version("axolotl"),
        "definitions": dict(sorted(definitions.items())),
        "keys": dict(sorted(keys.items())),
        "plugins": plugins,
    }


def _keys(model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    import warnings

    from pydantic.json_schema import PydanticJsonSchemaWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)  # of defaults, not kept anyway
        schema = _bare(model.model_json_schema(by_alias=False, schema_generator=_Generator))
    definitions |= schema.pop("$defs", {})
    properties: dict[str, Any] = schema["properties"]
    return properties


def _bare(schema: Any) -> Any:
    """Drop texts and defaults; a property may bear the name of a JSON Schema keyword."""
    if isinstance(schema, list):
        return [_bare(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _bare(item) for name, item in value.items()}
        if key in ("properties", "$defs")
        else _bare(value)
        for key, value in schema.items()
        if key not in _LEFT_OUT
    }


def _is_refused(key: str) -> bool:
    """Whether Axolotl raises on a key of its list of deprecated ones, rather than warn."""
    from axolotl.utils.schemas.deprecated import DeprecatedParameters

    for value in (True, 1, "x"):
        try:
            DeprecatedParameters(**{key: value})
        except DeprecationWarning:
            return True
        except ValueError:  # of another type
            continue
    return False


def _judged_later() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Keys that Axolotl types as any text and judges in a validator or when training starts."""
    from axolotl.utils.schemas.enums import CANONICAL_ATTN_IMPLS, CustomSupportedOptimizers
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    optimizers = {str(name.value) for name in (*OptimizerNames, *CustomSupportedOptimizers)}
    yield "optimizer", [{"enum": sorted(optimizers)}]
    # one_cycle and rex are Axolotl's own (core/builders/base.py)
    yield (
        "lr_scheduler",
        [{"enum": sorted({s.value for s in SchedulerType} | {"one_cycle", "rex"})}],
    )
    hub_kernel = {"type": "string", "pattern": "/"}
    yield "attn_implementation", [{"enum": sorted(CANONICAL_ATTN_IMPLS)}, hub_kernel]
    yield "learning_rate", [{"type": "number"}]


def schema_text(schema: dict[str, Any]) -> str:
    """The file's content: one key a line, so that a new version shows as a short difference."""

    def lines(entries: dict[str, Any], indent: str) -> str:
        rows = (f"{indent}{json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items())
        return "{\n" + ",\n".join(rows) + "\n" + indent[1:] + "}"

    plugins = ",\n".join(
        f"  {json.dumps(name)}: {lines(keys, '   ')}" for name, keys in schema["plugins"].items()
    )
    return (
        f'{{\n "axolotl": {json.dumps(schema["axolotl"])},\n'
        f' "definitions": {lines(schema["definitions"], "  ")},\n'
        f' "keys": {lines(schema["keys"], "  ")},\n'
        f' "plugins": {{\n{plugins}\n }}\n}}\n'
    )


if __name__ == "__main__":
    SNAPSHOT.write_text(schema_text(make_schema()), encoding="utf-8")
    print(f"wrote {SNAPSHOT}")  # noqa: T201
