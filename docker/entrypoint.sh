#!/usr/bin/env bash
# First process of the image. It keeps the conventions of RunPod's templates: ssh where PUBLIC_KEY
# is set, Jupyter where JUPYTER_PASSWORD is.
#
# MULTITASK_ROOT is a folder that stands for /, for tests.
set -euo pipefail

root="${MULTITASK_ROOT:-}"
home="$root${HOME:-/root}"
python="${MULTITASK_PYTHON:-/workspace/axolotl-venv/bin/python}"

say() {
  printf '[entrypoint] %s\n' "$1" >&2
}

# A volume at /workspace hides Axolotl's environment, which lies there.
require_environment() {
  command -v "$python" >/dev/null && return
  say "error: there is no $python. Is a volume mounted at /workspace? Mount it at /workspace/data"
  exit 2
}

start_ssh() {
  if [[ -z "${PUBLIC_KEY:-}" ]]; then
    say "no PUBLIC_KEY: ssh is not started"
    return
  fi
  mkdir -p -- "$home/.ssh"
  # Several keys may come on one line.
  sed -E 's/ +((ssh|ecdsa|sk)-)/\n\1/g' <<<"$PUBLIC_KEY" >"$home/.ssh/authorized_keys"
  chmod 700 -- "$home/.ssh"
  chmod 600 -- "$home/.ssh/authorized_keys"
  # The image's host keys are known to everyone who has the image.
  if [[ ! -e "$root/etc/ssh/.multitask" ]]; then
    mkdir -p -- "$root/etc/ssh"
    rm -f -- "$root"/etc/ssh/ssh_host_*
    ssh-keygen -A ${root:+-f "$root"}
    touch -- "$root/etc/ssh/.multitask"
  fi
  service ssh start || say "error: ssh does not start; the job goes on without it"
}

start_jupyter() {
  if [[ -z "${JUPYTER_PASSWORD:-}" ]]; then
    say "no JUPYTER_PASSWORD: Jupyter is not started"
    return
  fi
  # The token goes by the environment: an argument could be read in the list of processes.
  JUPYTER_TOKEN="$JUPYTER_PASSWORD" jupyter lab --allow-root --no-browser --ip=0.0.0.0 \
    --port=8888 '--ServerApp.allow_origin=*' --ServerApp.root_dir="$root/workspace" \
    >"$root/var/log/jupyter.log" 2>&1 &
}

require_environment
mkdir -p -- "$root/var/log"
start_ssh
start_jupyter
exec "$@"
