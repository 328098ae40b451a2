"""Launch scripts: each is the same file on every node and reads its place from the environment.

The rendezvous is static: every node is told rank and address beforehand. c10d is said not to work
on RunPod's clusters, and without it a node that dies cannot make the others wait for ever on a
membership vote. A script finds the run by its own place, so a run can be copied.
"""

from __future__ import annotations

from multitask.cluster import Cluster
from multitask.runners.accelerate import TRAIN_MODULE

_PREAMBLE = """\
set -euo pipefail

fail() {
  printf '%s: %s\\n' "${0##*/}" "$1" >&2
  exit 2
}
"""

_HERE = """
run="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
[[ -f "$run/axolotl.yaml" ]] || fail "no axolotl.yaml in $run; this script belongs in RUN/launch"
"""

_AGREE = """
# agree NAME WANTED MEANING: a variable of the launcher's, where set, must be what the run needs.
agree() {
  local value="${!1:-}"
  [[ -z "$value" || "$value" == "$2" ]] ||
    fail "$1 is $value, and this run was built for $2 $3; rebuild it for this cluster"
}
"""

_WHOLE = """
# whole NAME LOW HIGH: a variable must be a whole number in a range.
whole() {
  local value="${!1}"
  if [[ ! "$value" =~ ^(0|[1-9][0-9]{0,8})$ ]] || ((value < $2 || value > $3)); then
    fail "$1 is '$value'; give a whole number from $2 to $3"
  fi
}
"""

_ONE_NODE_RANK = """
[[ "${NODE_RANK:-0}" == 0 ]] || fail "NODE_RANK is $NODE_RANK, and this run was built for 1 node"
"""

_NODE_RANK = """
[[ -n "${NODE_RANK:-}" ]] ||
  fail "NODE_RANK is not set; give this node's number, 0 to $((nodes - 1)), 0 where MASTER_ADDR is"
whole NODE_RANK 0 $((nodes - 1))
[[ -n "${MASTER_ADDR:-}" ]] || fail "MASTER_ADDR is not set; give the address of node 0"
"""

_PORT = """
MASTER_PORT="${MASTER_PORT:-29500}"
whole MASTER_PORT 1 65535
"""

_ENVIRONMENT = """
export AXOLOTL_DO_NOT_TRACK="${AXOLOTL_DO_NOT_TRACK:-1}"
# Without nvcc, DeepSpeed could not be imported, which accelerate does in every training.
export DS_IGNORE_CUDA_DETECTION="${DS_IGNORE_CUDA_DETECTION:-1}"
export WANDB_DIR="${WANDB_DIR:-$run/logs}"
# The launchers give each process one thread; the Adam of offloaded parameters wants them all.
threads=$(($(nproc) / processes))
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}"
mkdir -p -- "$run/logs"
"""

_FIND_RUN = """
# Slurm runs a copy of this file, so its own place says nothing.
submitted="$(scontrol show job --oneliner "${SLURM_JOB_ID:-0}" 2>/dev/null |
  sed -n 's/.* Command=\\(.*\\) WorkDir=.*/\\1/p')" || submitted=
run=
for candidate in "${MULTITASK_RUN:-}" "$(dirname -- "${BASH_SOURCE[0]}")/.." \\
  "$(dirname -- "${submitted:-/}")/.." "${SLURM_SUBMIT_DIR:-.}" "${SLURM_SUBMIT_DIR:-.}/.."; do
  if [[ -n "$candidate" && -f "$candidate/axolotl.yaml" && -f "$candidate/launch/node.sh" ]]; then
    run="$(cd -- "$candidate" && pwd)"
    break
  fi
done
[[ -n "$run" ]] || fail "cannot find the run; submit from its folder, or set MULTITASK_RUN to it"
"""

_SLURM = """
[[ -n "${SLURM_JOB_ID:-}" ]] || fail "SLURM_JOB_ID is not set; start this with: sbatch ${0##*/}"
agree SLURM_JOB_NUM_NODES "$nodes" "node(s)"
[[ -n "${SLURM_JOB_NODELIST:-}" ]] || fail "SLURM_JOB_NODELIST is not set; this is no Slurm job"
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
((${#hosts[@]} == nodes)) ||
  fail "scontrol names ${#hosts[@]} nodes for $SLURM_JOB_NODELIST, and the run needs $nodes"

# Node 0 of the job is the first of the list. Jobs that share a node get ports of their own.
export MASTER_ADDR="${MASTER_ADDR:-${hosts[0]}}"
export MASTER_PORT="${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}"
# Since Slurm 22.05 srun does not take this over from sbatch.
if [[ -n "${SLURM_CPUS_PER_TASK:-}" ]]; then
  export SRUN_CPUS_PER_TASK="${SRUN_CPUS_PER_TASK:-$SLURM_CPUS_PER_TASK}"
fi

# shellcheck disable=SC2016  # the variables are those of each task
exec srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --kill-on-bad-exit=1 \\
  bash -c 'export NODE_RANK="$SLURM_NODEID"; exec "$0" "$@"' "$run/launch/node.sh" "$@"
"""

_RUNPOD = """
# A shell over ssh lacks the container's variables; its first process has them.
environ="${CONTAINER_ENVIRON:-/proc/1/environ}"
if [[ -r "$environ" ]]; then
  while IFS='=' read -r -d '' name value; do
    case "$name" in
      PRIMARY_ADDR | PRIMARY_PORT | MASTER_ADDR | MASTER_PORT | NODE_ADDR | NODE_RANK | \\
        NUM_NODES | NUM_TRAINERS | HOST_NODE_ADDR | WORLD_SIZE | HF_TOKEN | HF_HOME | WANDB_API_KEY)
        if [[ -z "${!name:-}" ]]; then export "$name=$value"; fi
        ;;
    esac
  done <"$environ"
fi
"""

_RUNPOD_CLUSTER = """
export MASTER_ADDR="${MASTER_ADDR:-${PRIMARY_ADDR:-}}"
export MASTER_PORT="${MASTER_PORT:-${PRIMARY_PORT:-29500}}"
for name in NODE_RANK MASTER_ADDR; do
  [[ -n "${!name:-}" ]] ||
    fail "$name is neither set nor in $environ; is this pod in an Instant Cluster of $nodes nodes?"
done

# The nodes reach each other over ens1 alone; over eth0 NCCL and gloo time out.
export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-ens1}"
export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-ens1}"
"""


def launch_scripts(cluster: Cluster) -> dict[str, str]:
    """Write the scripts that start a run's training.

    Args:
        cluster: What the run is built for.

    Returns:
        File names in ``RUN/launch`` with their contents: ``node.sh`` always; ``torchrun.sh``
        where several processes train together; ``slurm.sh`` and ``runpod.sh`` with GPUs.
    """
    scripts = {"node.sh": _node(cluster)}
    if cluster.world_size > 1:
        scripts["torchrun.sh"] = _torchrun(cluster)
    if not cluster.on_cpu:
        scripts["slurm.sh"] = _slurm(cluster)
        scripts["runpod.sh"] = _runpod(cluster)
    return scripts


def _head(cluster: Cluster, purpose: str, *more: str) -> str:
    comments = [f"{purpose}: {cluster.description}.", *more]
    return "#!/usr/bin/env bash\n" + "".join(f"# {line}\n" for line in comments)


def _sizes(cluster: Cluster) -> str:
    """What the run was built for, and that the launcher's variables, where set, agree."""
    uses_numbers = cluster.world_size > 1
    return (
        f"nodes={cluster.nodes}\nprocesses={max(1, cluster.gpus_per_node)}  # on each node\n"
        + _AGREE
        + (_WHOLE if uses_numbers else "")
        + '\nagree NUM_NODES "$nodes" "node(s)"\n'
        + f'agree WORLD_SIZE {cluster.world_size} "process(es)"\n'
    )


def _place(cluster: Cluster) -> str:
    """Checks of a node's rank and addresses."""
    if cluster.nodes > 1:
        return _sizes(cluster) + _NODE_RANK + _PORT
    return _sizes(cluster) + _ONE_NODE_RANK + (_PORT if cluster.world_size > 1 else "")


def _needs(program: str) -> str:
    return (
        f"\ncommand -v {program} >/dev/null ||\n"
        f'  fail "{program} is not on the PATH; activate the environment that has multitask[train]"'
        "\n\n"
    )


def _command(*parts: str) -> str:
    return "exec " + " \\\n  ".join([*parts, f'-m {TRAIN_MODULE} "$run/axolotl.yaml" "$@"']) + "\n"


def _node(cluster: Cluster) -> str:
    arguments = ['accelerate launch --config_file "$run/accelerate.yaml"']
    if cluster.nodes > 1:
        arguments.append('--machine_rank "$NODE_RANK" --main_process_ip "$MASTER_ADDR"')
    if cluster.world_size > 1:
        arguments.append('--main_process_port "$MASTER_PORT"')
    return (
        _head(cluster, "Starts this run's training on a node of", *_reads(cluster))
        + _PREAMBLE
        + _HERE
        + _place(cluster)
        + _ENVIRONMENT
        + _needs("accelerate")
        + _command(*arguments)
    )


def _torchrun(cluster: Cluster) -> str:
    address = '"$MASTER_ADDR"' if cluster.nodes > 1 else "127.0.0.1"
    rank = '"$NODE_RANK"' if cluster.nodes > 1 else "0"
    return (
        _head(cluster, "As node.sh, with torchrun in accelerate's place, for", *_reads(cluster))
        + _PREAMBLE
        + _HERE
        + _place(cluster)
        + _ENVIRONMENT
        + _needs("torchrun")
        + _command(
            f'torchrun --nnodes "$nodes" --nproc_per_node {cluster.gpus_per_node}',
            f"--node_rank {rank} --rdzv_backend static --max_restarts 0",
            f'--master_addr {address} --master_port "$MASTER_PORT"',
        )
    )


def _reads(cluster: Cluster) -> list[str]:
    if cluster.nodes > 1:
        return [
            "Run it on every node. It reads NODE_RANK (from 0), MASTER_ADDR (of node 0) and",
            "MASTER_PORT (29500). Arguments are handed on to Axolotl.",
        ]
    port = " It reads MASTER_PORT (29500)." if cluster.world_size > 1 else ""
    return [f"Arguments are handed on to Axolotl.{port}"]


def _slurm(cluster: Cluster) -> str:
    # A GPU's share of a node's processor: loading and logging, for each of the node's processes.
    cpus = 8 * cluster.gpus_per_node
    directives = [
        "--job-name=multitask",
        f"--nodes={cluster.nodes}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={cluster.gpus_per_node}",
        f"--cpus-per-task={cpus}",
        "--output=multitask-%j.log",
    ]
    head = "#!/usr/bin/env bash\n" + "".join(f"#SBATCH {line}\n" for line in directives)
    comments = (
        f"# Submits this run's training to Slurm, for: {cluster.description}.\n"
        "#   sbatch --partition=... --account=... --time=... launch/slurm.sh\n"
    )
    sizes = f"nodes={cluster.nodes}\n" + _AGREE
    return head + comments + _PREAMBLE + _FIND_RUN + sizes + _SLURM


def _runpod(cluster: Cluster) -> str:
    purpose = "Starts this run's training on a RunPod pod of"
    more = ["It reads the variables of an Instant Cluster, also over ssh, then runs node.sh."]
    agreed = f'agree NUM_TRAINERS {cluster.gpus_per_node} "GPU(s) a node"\n'
    sizes = f"nodes={cluster.nodes}\n" + _AGREE + "\n"
    return (
        _head(cluster, purpose, *more)
        + _PREAMBLE
        + _HERE
        + _RUNPOD
        + sizes
        + 'agree NUM_NODES "$nodes" "node(s)"\n'
        + agreed
        + (_RUNPOD_CLUSTER if cluster.nodes > 1 else "")
        + '\nexec "$run/launch/node.sh" "$@"\n'
    )
