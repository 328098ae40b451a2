"""The plugin's own section in Axolotl's configuration."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from multitask.training_spec import PluginSettings


class PluginArguments(BaseModel):
    """What the plugin adds to Axolotl's schema.

    Attributes:
        multitask: The section ``multitask``; checked like any other key of Axolotl's.
    """

    multitask: PluginSettings = PluginSettings()


def settings_of(cfg: Any) -> PluginSettings:
    """The plugin's section of Axolotl's validated configuration."""
    section = cfg.get("multitask") or {}
    return PluginSettings.model_validate(
        section.to_dict() if hasattr(section, "to_dict") else section
    )
