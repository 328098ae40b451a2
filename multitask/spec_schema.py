"""The JSON schema of a spec, made from its classes, by which editors complete and check it.

``python -m multitask.spec_schema > configs/schema/spec.schema.json`` writes it.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from multitask.metrics import METRICS
from multitask.resources import config_names, resource_dir
from multitask.spec import Spec
from multitask.tasks import KINDS

_ATTRIBUTES = re.compile(r"\s*\n\nAttributes:\n(?P<rows>.*)", re.DOTALL)
_ATTRIBUTE = re.compile(r"^    (?P<name>\w+): (?P<text>.*(?:\n {8,}.*)*)", re.MULTILINE)
_ROLE = re.compile(r"(?::\w+:)?`+([^`]*)`+")  # of reStructuredText


def spec_schema() -> dict[str, Any]:
    """The schema, draft 2020-12: every key with what it does, its type, range and default."""
    schema = Spec.model_json_schema()
    for node in (schema, *schema["$defs"].values()):
        _describe(node)
    keys, task = schema["properties"], schema["$defs"]["TaskSpec"]
    keys["method"] |= _named(config_names("methods"))
    keys["cluster"] |= _named(config_names("clusters"), "the path of a YAML file")
    shipped = sorted(path.stem for path in resource_dir("templates").glob("*.yaml"))
    for key in ("tasks", "general"):
        keys[key]["items"]["anyOf"][0] = _named(shipped, "the path of a task's YAML file")
    task["properties"]["kind"] |= {"enum": list(KINDS)}
    task["properties"]["metrics"]["anyOf"][0]["items"] = _named(METRICS, "module:name")
    task["additionalProperties"] = False
    for kind in KINDS.values():
        for key, read in kind.own_keys.items():
            meaning = _plain((read.__doc__ or "").split("\n\n")[0])
            task["properties"][key] = {"description": f"Of a {kind.name}. {meaning}"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _describe(node: dict[str, Any]) -> None:
    """Give each key the sentence that the docstring of its class has for it."""
    found = _ATTRIBUTES.search(node.get("description", ""))
    if found:
        node["description"] = _plain(node["description"][: found.start()])
        for row in _ATTRIBUTE.finditer(found["rows"]):
            node["properties"][row["name"]]["description"] = _plain(row["text"])
    for part in (node, *node.get("properties", {}).values()):
        part.pop("title", None)


def _plain(text: str) -> str:
    return _ROLE.sub(r"`\1`", " ".join(text.split()))


def _named(names: Any, other: str = "") -> dict[str, Any]:
    """A text of which these are known, which an editor offers."""
    known = {"enum": sorted(names)}
    return {"anyOf": [known, {"type": "string", "description": other}]} if other else known


if __name__ == "__main__":
    sys.stdout.write(json.dumps(spec_schema(), indent=1, ensure_ascii=False) + "\n")
