"""Whether Weights & Biases has a login, found without starting it."""

from __future__ import annotations

import netrc
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse

_HOST = "https://api.wandb.ai"


def logged_in(environment: Mapping[str, str]) -> bool:
    """Whether wandb finds a key: in the environment, or for its host in ``.netrc``."""
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlparse(environment.get("WANDB_BASE_URL", _HOST)).hostname or ""
    default = Path(environment.get("HOME", "~")).expanduser()
    for path in (environment.get("NETRC"), default / ".netrc", default / "_netrc"):
        if path is None or not Path(path).is_file():
            continue
        try:
            return netrc.netrc(str(path)).authenticators(host) is not None
        except netrc.NetrcParseError:
            return False
    return False
