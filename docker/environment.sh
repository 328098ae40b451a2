# shellcheck shell=bash
# What Axolotl's own entrypoint sources, once in a tree of processes: without it, bitsandbytes does
# not find libnvJitLink (bitsandbytes#1905). BASH_ENV names this file, so that launchers which start
# a command of their own in place of the entrypoint (dstack, SkyPilot) have it too.
if [[ -z "${MULTITASK_ENVIRONMENT:-}" ]]; then
  export MULTITASK_ENVIRONMENT=1
  if [[ -f "${MULTITASK_ROOT:-}/workspace/axolotl/scripts/cuda13_env.sh" ]]; then
    # shellcheck source=/dev/null
    . "${MULTITASK_ROOT:-}/workspace/axolotl/scripts/cuda13_env.sh"
  fi
fi
