"""In place of ``accelerate launch`` on CPUs: the same ranks, as forks of a warm process.

accelerate's own launcher starts no process group for CPUs (it wants MPI). Python imports this at
its start, and only what is started as ``-m accelerate.commands.launch`` becomes something else: the
rehearsal's client, with what accelerate was told.
"""

import os
import re
import sys
from pathlib import Path

_WORDS = sys.orig_argv


def _option(name: str) -> str:
    return _WORDS[_WORDS.index(name) + 1]


def _number(name: str) -> int:
    text = Path(_option("--config_file")).read_text()
    return int(re.search(rf"^{name}: (\d+)$", text, re.MULTILINE)[1])


if _WORDS[1:3] == ["-m", "accelerate.commands.launch"]:
    nodes = _number("num_machines")
    command = [sys.executable, "-I", "-S", *os.environ["CPU_LAUNCH"].split(os.pathsep)]
    command += ["--nnodes", str(nodes), "--node-rank", _option("--machine_rank")]
    command += ["--nproc-per-node", str(_number("num_processes") // nodes)]
    command += ["--master-addr", _option("--main_process_ip")]
    command += ["--master-port", _option("--main_process_port")]
    command += ["--log-dir", _option("--log_dir")]
    resume = [word for word in _WORDS if word.startswith("--resume_from_checkpoint=")]
    command += ["--resume", resume[0].partition("=")[2]] if resume else []
    config = _WORDS[_WORDS.index("axolotl.cli.train") + 1]
    os.execv(sys.executable, [*command, config])
