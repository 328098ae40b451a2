"""An environment in which multitask's plugin cannot be imported."""

import sys

sys.modules["multitask.plugin"] = None  # type: ignore[assignment]
