"""Adapters: one small file a dataset, from its own columns to :class:`Example` rows."""

from __future__ import annotations

from multitask.data.adapters import banking77, commonsense_qa, text_claims
from multitask.data.adapters.base import Adapter, Files, HubDataset, TaskData

_ADAPTERS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (banking77.ADAPTER, commonsense_qa.ADAPTER, text_claims.ADAPTER)
}


def load_adapter(name: str) -> Adapter:
    """The adapter of a shipped task; KeyError when there is none."""
    return _ADAPTERS[name]


__all__ = ["Adapter", "Files", "HubDataset", "TaskData", "load_adapter"]
