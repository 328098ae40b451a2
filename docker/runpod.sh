# shellcheck shell=bash
# What an ssh shell on a RunPod machine lacks: the cluster's variables, from the container's first
# process, and the interfaces for NCCL and gloo. Sourced by ~/.bashrc; no secret is in it.
if [[ -z "${MULTITASK_SHELL:-}" ]]; then
  export MULTITASK_SHELL=1
  eval "$("${MULTITASK_PYTHON:-/workspace/axolotl-venv/bin/python}" -m multitask.machine environment)"
fi
