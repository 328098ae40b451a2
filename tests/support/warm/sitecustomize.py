"""Launches of one process as forks of the test worker's warm process (``tests/warm.py``).

Python imports this at its start, and only what is started as ``-m accelerate.commands.launch``
becomes something else: the fork server's client, with accelerate's own arguments.
"""

import os
import sys

_WORDS = sys.orig_argv

if "WARM" in os.environ and _WORDS[1:3] == ["-m", "accelerate.commands.launch"]:
    client = [sys.executable, "-I", "-S", *os.environ["WARM"].split(os.pathsep), "accelerate"]
    os.execv(sys.executable, [*client, *_WORDS[3:]])
