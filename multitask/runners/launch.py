"""Launch scripts: each is the same file on every node, and finds the run by its own place.

What a node is, is read in Python (:mod:`multitask.training.nodes`), once for all launchers. So a
script only says which command starts the run, and a run can be copied.
"""

from __future__ import annotations

from typing import Any

import yaml

from multitask.cluster import Cluster
from multitask.runners.base import Runner

_START = """\
set -euo pipefail

run="$(cd -- "$(dirname -- "${{BASH_SOURCE[0]}}")/.." && pwd)"
exec python -m multitask.training.start {launcher} "$run" "$@"
"""

_SLURM = """\
set -euo pipefail

fail() {{
  printf '%s: %s\\n' "${{0##*/}}" "$1" >&2
  exit 2
}}

[[ -n "${{SLURM_JOB_ID:-}}" ]] || fail "SLURM_JOB_ID is not set; start this with: sbatch ${{0##*/}}"

# Slurm runs a copy of this file, so its own place says nothing.
submitted="$(scontrol show job --oneliner "$SLURM_JOB_ID" 2>/dev/null |
  sed -n 's/.* Command=\\(.*\\) WorkDir=.*/\\1/p')" || submitted=
run=
here="${{SLURM_SUBMIT_DIR:-.}}"
for candidate in "${{MULTITASK_RUN:-}}" "$(dirname -- "${{BASH_SOURCE[0]}}")/.." \\
  "$(dirname -- "${{submitted:-/}}")/.." "$here" "$here/.."; do
  if [[ -n "$candidate" && -f "$candidate/{file}" && -f "$candidate/launch/node.sh" ]]; then
    run="$(cd -- "$candidate" && pwd)"
    break
  fi
done
[[ -n "$run" ]] || fail "cannot find the run; submit from its folder, or set MULTITASK_RUN to it"

# Since Slurm 22.05 srun does not take this over from sbatch.
if [[ -n "${{SLURM_CPUS_PER_TASK:-}}" ]]; then
  export SRUN_CPUS_PER_TASK="${{SRUN_CPUS_PER_TASK:-$SLURM_CPUS_PER_TASK}}"
fi
exec srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --kill-on-bad-exit=1 \\
  multitask job "$run"
"""


def launch_scripts(cluster: Cluster, runner: Runner) -> dict[str, str]:
    """Write the scripts that start a run's training by hand or from Slurm.

    Args:
        cluster: What the run is built for.
        runner: Who trains it.

    Returns:
        File names in ``RUN/launch`` with their contents: ``node.sh`` always; ``torchrun.sh``
        where several processes train together; ``slurm.sh`` with GPUs.
    """
    scripts = {"node.sh": _start(cluster, runner, "accelerate")}
    if cluster.world_size > 1:
        scripts["torchrun.sh"] = _start(cluster, runner, "torchrun")
    if not cluster.on_cpu:
        scripts["slurm.sh"] = _slurm(cluster, runner)
    return scripts


def _start(cluster: Cluster, runner: Runner, launcher: str) -> str:
    handed_on = f"arguments are handed on to {runner.name}"
    comments = [
        f"Starts this run's training with {launcher}, once, on a node of: {cluster.description}.",
        f"`multitask train` does the same, and restarts it; {handed_on}.",
    ]
    if cluster.nodes > 1:
        comments.append("Run it on every node with NODE_RANK (from 0) and MASTER_ADDR (of node 0).")
    head = "#!/usr/bin/env bash\n" + "".join(f"# {line}\n" for line in comments)
    return head + _START.format(launcher=launcher)


def _slurm(cluster: Cluster, runner: Runner) -> str:
    # A GPU's share of a node's processor: loading and logging, for each of the node's processes.
    cpus = 8 * cluster.gpus_per_node
    directives = [
        "--job-name=multitask",
        f"--nodes={cluster.nodes}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={cluster.gpus_per_node}",
        f"--cpus-per-task={cpus}",
        "--output=multitask-%j.log",
        # Ten minutes before the time is over it saves and stops; requeued, it goes on from there.
        "--signal=TERM@600",
        "--requeue",
    ]
    head = "#!/usr/bin/env bash\n" + "".join(f"#SBATCH {line}\n" for line in directives)
    comments = (
        f"# Trains, evaluates and reports this run on: {cluster.description}.\n"
        "#   sbatch --partition=... --account=... --time=... launch/slurm.sh\n"
    )
    return head + comments + _SLURM.format(nodes=cluster.nodes, file=runner.file)


def accelerate_yaml(cluster: Cluster) -> str:
    """The file that ``accelerate launch --config_file`` reads.

    It only starts processes: how they shard the model stands in the engine's own file.
    """
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "NO" if cluster.world_size == 1 else "MULTI_GPU",
        "num_machines": cluster.nodes,
        "num_processes": cluster.world_size,
        "machine_rank": 0,
        "mixed_precision": "no" if cluster.on_cpu else "bf16",
        "use_cpu": cluster.on_cpu,
        "main_training_function": "main",
        "dynamo_config": {},
        "debug": False,
    }
    if cluster.nodes > 1:
        config |= {"rdzv_backend": "static", "same_network": True}
    return yaml.safe_dump(config, sort_keys=False)
