"""A tiny random model for the scoring tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy Llama with a tokenizer of its own."""
    pytest.importorskip("torch")
    from multitask.toy import ToySize, write_toy_model

    folder = tmp_path_factory.mktemp("models") / "toy"
    texts = ["where is my card?", "card_arrival", "lost card", "d_arrival"] * 5
    write_toy_model(folder, texts, size=ToySize(hidden=32, layers=2, heads=4, vocabulary=400))
    return folder
