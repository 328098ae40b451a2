"""Check keys and value types of an Axolotl configuration against a snapshot of Axolotl's schema.

Axolotl drops keys that it does not know without a word, at the top and inside sections. The
snapshot (``axolotl_schema.json``, written by `make_schema`) finds them
without Axolotl, in milliseconds. Values are judged by pydantic with the snapshot's types, so by
the rules of Axolotl's own schema: ``"2e-4"`` is a number, ``"long"`` is none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import PydanticUndefined

from multitask.checks import Check
from multitask.training_spec import PluginSettings

_SNAPSHOT = Path(__file__).with_name("axolotl_schema.json")

# What to write in place of a key that Axolotl deprecates (axolotl/utils/schemas: fields marked
# deprecated, DeprecatedParameters, and validators that rewrite a key). A test holds this table
# to the snapshot.
REPLACED_BY = {
    "dataset_processes": "dataset_num_proc",
    "dpo_beta": "rl_beta",
    "eager_attention": "attn_implementation: eager",
    "eval_max_new_tokens": "generation_max_new_tokens",
    "eval_table_size": "generate_samples and num_generation_samples",
    "evaluation_strategy": "eval_strategy",
    "flash_attention": "attn_implementation: flash_attention_2",
    "flex_attention": "attn_implementation: flex_attention",
    "fsdp": "fsdp_config",
    "fsdp_final_state_dict_type": "fsdp_config.final_state_dict_type",
    "gc_steps": "torch_empty_cache_steps and gc_collect_steps",
    "liger_swiglu": "liger_glu_activation",
    "message_field_content": "message_property_mappings",
    "message_field_role": "message_property_mappings",
    "noisy_embedding_alpha": "neftune_noise_alpha",
    "pretrain_multipack_buffer_size": "streaming_multipack_buffer_size",
    "rope_scaling": "model_config",
    "sage_attention": "attn_implementation: sage",
    "sdp_attention": "attn_implementation: sdpa",
    "sequence_parallel_degree": "context_parallel_size",
    "xformers_attention": "attn_implementation: xformers",
}
# Keys that Axolotl knows only to refuse them (check_deprecated_unsloth_fields).
_REMOVED = {
    "unsloth_cross_entropy_loss": "cut_cross_entropy",
    "unsloth_lora_mlp": "lora_mlp_kernel",
    "unsloth_lora_o": "lora_o_kernel",
    "unsloth_lora_qkv": "lora_qkv_kernel",
    "unsloth_rms_norm": "liger_rms_norm",
    "unsloth_rope": "liger_rope",
}
# axolotl.utils.config.validate_config turns each dataset into the class of its `rl`.
_DATASET_CLASS = {"dpo": "DPODataset", "ipo": "DPODataset", "simpo": "DPODataset"} | {
    "kto": "KTODataset"
}
_PLAIN: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "null": None,
}
_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a mapping",
    "array": "a list",
}


@cache
def schema_version() -> str:
    """The Axolotl version that the snapshot was taken from."""
    return str(_snapshot()["axolotl"])


def check_schema(config: dict[str, Any]) -> list[Check]:
    """Find unknown keys, values of a wrong type and deprecated keys.

    Args:
        config: An Axolotl configuration, or the part of it that a user wrote. Keys of plugins
            are judged by its ``plugins``; without that key, any plugin's keys are let pass.

    Returns:
        Findings in the order of the keys: unknown keys and wrong types are errors, deprecated
        keys warnings, except those that Axolotl refuses.
    """
    known, foreign = _top_level_keys(config)
    plugins = config.get("plugins")
    listed = plugins if isinstance(plugins, list) else []
    strangers = [p for p in listed if _plugin_name(p) not in _snapshot()["plugins"]]
    findings: list[Check] = []
    for key, value in config.items():
        if key in known:
            entry, name = known[key]
            findings += _check_deprecated(key, entry, value)
            findings += _check_value(entry, value, key, rl=config.get("rl"), name=name)
        elif key in _REMOVED:
            findings.append(_removed(key))
        elif key == "multitask":
            findings += _check_ours(value)
        elif key in foreign:
            findings.append(_needs_plugin(key, foreign[key]))
        else:
            # A plugin that is not Axolotl's may add keys of its own; ours adds one.
            ours_only = all(_plugin_name(p) == "MultitaskPlugin" for p in strangers)
            findings.append(_unknown(key, key, [*known, *foreign], certain=ours_only))
    return findings


@cache
def _snapshot() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_SNAPSHOT.read_text(encoding="utf-8"))
    return content


def _plugin_name(plugin: Any) -> str:
    return str(plugin).rpartition(".")[2]


def _named(keys: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Every name that a key may be given by, with the key's schema and proper name."""
    return {
        alias: (entry, name)
        for name, entry in keys.items()
        for alias in (name, *entry.get("aliases", ()))
    }


def _top_level_keys(
    config: dict[str, Any],
) -> tuple[dict[str, tuple[Any, str]], dict[str, str]]:
    """The keys that count with these plugins, and the keys of other plugins with their plugin."""
    known = _named(_snapshot()["keys"])
    foreign: dict[str, str] = {}
    plugins = config.get("plugins")
    listed = plugins if isinstance(plugins, list) else ()
    loaded = {_plugin_name(plugin) for plugin in listed}
    for plugin, keys in _snapshot()["plugins"].items():
        if plugin in loaded or plugins is None:
            known |= _named(keys)
        else:
            foreign |= {key: plugin for key in keys if key not in known}
    return known, foreign


def _unknown(key: str, path: str, known: list[str], *, certain: bool = True) -> Check:
    close = get_close_matches(str(key), known, n=1, cutoff=0.6)
    fix = f"did you mean '{close[0]}'?" if close else "remove it; Axolotl drops it without a word"
    return Check(
        f"Axolotl {schema_version()} does not know the key '{key}'",
        path,
        fix,
        "problem" if certain else "warning",
    )


def _check_ours(value: Any) -> Iterator[Check]:
    """The section of multitask's own plugin."""
    try:
        PluginSettings.model_validate(value)
    except ValidationError as error:
        for issue in error.errors():
            path = ".".join(["multitask", *map(str, issue["loc"])])
            yield Check(issue["msg"], path, "set it by the spec's `evaluation` and `balance`")


def _removed(key: str) -> Check:
    return Check(f"Axolotl has removed '{key}'", key, f"use '{_REMOVED[key]}'")


def _needs_plugin(key: str, plugin: str) -> Check:
    return Check(
        f"'{key}' belongs to Axolotl's {plugin}, which is not in 'plugins', so it would be dropped",
        key,
        f"add it to 'plugins', or remove '{key}'",
    )


def _check_deprecated(key: str, entry: Any, value: Any) -> Iterator[Check]:
    state = entry.get("deprecated") or ("warned" if key in REPLACED_BY else None)
    if state is None or value is None:
        return
    other = REPLACED_BY.get(key)
    fix = f"use {other}" if other else "remove it"
    if state == "refused":
        yield Check(f"Axolotl no longer supports '{key}'", key, fix)
    else:
        yield Check(f"Axolotl deprecates '{key}'", key, fix, "warning")


def _branches(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a schema, references followed."""
    if "$ref" in schema:
        return _branches(_snapshot()["definitions"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return [branch for option in schema["anyOf"] for branch in _branches(option)]
    return [schema]


def _check_value(
    schema: dict[str, Any], value: Any, path: str, *, rl: Any = None, name: str = ""
) -> Iterator[Check]:
    try:
        _adapter(json.dumps(schema)).validate_python(value)
    except ValidationError:
        yield _wrong_type(schema, value, path)
        return
    if isinstance(value, dict):
        yield from _check_section(schema, value, path)
    elif isinstance(value, list):
        items = [b["items"] for b in _branches(schema) if isinstance(b.get("items"), dict)]
        if name in ("datasets", "test_datasets"):
            chosen = _DATASET_CLASS.get(str(rl), "SFTDataset")
            items = [{"$ref": f"#/$defs/{chosen}"}]
        for index, item in enumerate(value if items else ()):
            if isinstance(item, dict | list):
                yield from _check_value({"anyOf": items}, item, f"{path}[{index}]")


def _check_section(schema: dict[str, Any], value: dict[str, Any], path: str) -> Iterator[Check]:
    objects = [branch for branch in _branches(schema) if branch.get("type") in ("object", None)]
    if any("properties" not in branch for branch in objects):
        return  # free keys; their values' types were judged with the whole
    known: dict[str, tuple[Any, str]] = {}
    for branch in reversed(objects):
        known |= _named(branch.get("properties", {}))
    for key, inner in value.items():
        where = f"{path}.{key}"
        bare = str(key).removeprefix("fsdp_")
        if key in known:
            yield from (
                Check(f.answer, where, f.remedy, f.severity)
                for f in _check_deprecated(str(key), known[key][0], inner)
            )
            yield from _check_value(known[key][0], inner, where)
        elif path == "fsdp_config" and bare in known:
            # check_fsdp_config_kwargs_prefix strips the prefix with a warning
            yield Check(f"Axolotl deprecates '{key}' here", where, f"use '{bare}'", "warning")
            yield from _check_value(known[bare][0], inner, where)
        else:
            yield _unknown(str(key), where, list(known))


@cache
def _adapter(schema: str) -> TypeAdapter[Any]:
    return TypeAdapter(_type_of(json.loads(schema)))


def _type_of(schema: dict[str, Any]) -> Any:
    """The Python type that pydantic takes for a schema; sections are judged key by key later."""
    branches = _branches(schema)
    if len(branches) > 1:
        return Union[tuple(_type_of(branch) for branch in branches)]  # noqa: UP007
    (only,) = branches or [{}]
    if "const" in only or "enum" in only:
        return Literal[tuple(only.get("enum") or [only["const"]])]
    kind = only.get("type")
    if kind == "object":
        free = only.get("additionalProperties")
        inner = _type_of(free) if isinstance(free, dict) else Any
        return dict[str, inner]  # type: ignore[valid-type]
    if kind == "array":
        items = only.get("items")
        # Of sections only that they are mappings; _check_value goes into each.
        sections = isinstance(items, dict) and all("properties" in b for b in _branches(items))
        inner = dict[str, Any] if sections else _type_of(items or {})
        return Annotated[list[inner], _limits(only)]  # type: ignore[valid-type]
    return Annotated[_PLAIN[kind], _limits(only)] if kind in _PLAIN else Any


def _limits(schema: dict[str, Any]) -> Any:
    limits = {
        argument: schema[word]
        for word, argument in {
            "minimum": "ge",
            "maximum": "le",
            "exclusiveMinimum": "gt",
            "exclusiveMaximum": "lt",
            "minItems": "min_length",
            "maxItems": "max_length",
            "pattern": "pattern",
        }.items()
        if word in schema
    }
    return Field(PydanticUndefined, **limits)


def _wrong_type(schema: dict[str, Any], value: Any, path: str) -> Check:
    branches = [branch for branch in _branches(schema) if branch.get("type") != "null"]
    choices = [
        c for b in branches for c in (b.get("enum") or [b["const"]] if _is_choice(b) else ())
    ]
    words = [_describe(branch) for branch in branches if not _is_choice(branch)]
    wanted = " or ".join(dict.fromkeys(words))
    if choices:
        listed = "one of " + ", ".join(str(choice) for choice in choices)
        wanted = f"{wanted}, or {listed}" if wanted else listed
    close = get_close_matches(str(value), [str(c) for c in choices], n=1, cutoff=0.6)
    return Check(
        f"{_short(value)} is no value for '{path.rpartition('.')[2]}'",
        path,
        f"did you mean '{close[0]}'?" if close else f"give {wanted}",
    )


def _is_choice(schema: dict[str, Any]) -> bool:
    return "enum" in schema or "const" in schema


def _describe(schema: dict[str, Any]) -> str:
    kind = schema.get("type", "")
    word = _WORDS.get(kind, "a value")
    if kind == "array" and isinstance(schema.get("items"), dict):
        inner = dict.fromkeys(_describe(branch) for branch in _branches(schema["items"]))
        word = f"a list, each {' or '.join(inner)}"
    limits = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "above"}
    bounds = [f"{text} {schema[key]}" for key, text in limits.items() if key in schema]
    return " ".join([word, *bounds])


def _short(value: Any) -> str:
    text = repr(value)
    kind = {"str": "text", "int": "number", "float": "number", "bool": "true/false"}
    kind |= {"NoneType": "nothing", "dict": "mapping", "list": "list"}
    shown = text if len(text) <= 60 else text[:57] + "..."
    return f"the {kind.get(type(value).__name__, type(value).__name__)} {shown}"
