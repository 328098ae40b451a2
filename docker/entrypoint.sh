#!/usr/bin/env bash
# First process of the image. It keeps the conventions of RunPod's templates (ssh where PUBLIC_KEY
# is set, Jupyter where JUPYTER_PASSWORD is), then does the job of the run that RUN names, and in
# the end starts its arguments: by default it waits for people.
#
# MULTITASK_ROOT is a folder that stands for /, for tests.
set -euo pipefail

root="${MULTITASK_ROOT:-}"
home="$root${HOME:-/root}"
python="${MULTITASK_PYTHON:-/workspace/axolotl-venv/bin/python}"
here="$(dirname -- "${BASH_SOURCE[0]}")"

say() {
  printf '[entrypoint] %s\n' "$1" >&2
}

# A volume at /workspace hides Axolotl's environment, which lies there.
require_environment() {
  command -v "$python" >/dev/null && return
  say "error: there is no $python. Is a volume mounted at /workspace? Mount it at /workspace/data"
  exit 2
}

# An ssh shell has none of the container's variables.
export_to_shells() {
  local file="$root/etc/rp_environment" name
  mkdir -p -- "$root/etc" "$home"
  (umask 077 && : >"$file")
  while IFS= read -r name; do
    case "$name" in
      PATH | LD_LIBRARY_PATH | LOCAL_KERNELS | HF_* | WANDB_* | BNB_* | CUDA_* | NVIDIA_* | NCCL_* | \
        GLOO_* | RUNPOD_* | MULTITASK_* | DS_IGNORE_CUDA_DETECTION | AXOLOTL_DO_NOT_TRACK)
        printf 'export %s=%q\n' "$name" "${!name}" >>"$file"
        ;;
    esac
  done < <(compgen -e)
  local line=". $file"
  if ! grep -qxF -- "$line" "$home/.bashrc" 2>/dev/null; then
    # Before anything else: Axolotl's own lines may start tmux and end the shell.
    printf '%s\n%s\n' "$line" "$(cat -- "$home/.bashrc" 2>/dev/null || true)" >"$home/.bashrc.new"
    mv -- "$home/.bashrc.new" "$home/.bashrc"
  fi
}

start_ssh() {
  if [[ -z "${PUBLIC_KEY:-}" ]]; then
    say "no PUBLIC_KEY: ssh is not started"
    return
  fi
  export_to_shells
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

# Ends this script with the job's exit code only when the container is stopped: RunPod starts a
# container that has ended again, and with it the job.
do_job() {
  local code=0 stopped=
  trap 'stopped=1; kill -TERM "$job" 2>/dev/null || true' TERM INT
  while true; do
    code=0
    wait "$job" || code=$?
    # A signal ends the wait; the job saves a checkpoint and ends after it.
    kill -0 "$job" 2>/dev/null || break
  done
  [[ -z "$stopped" ]] || exit "$code"
  trap - TERM INT
  say "the job of $RUN ended with exit code $code; this machine bills until you remove it"
}

require_environment
# shellcheck source=docker/environment.sh
. "$here/environment.sh"
mkdir -p -- "$root/var/log"
[[ -z "${MULTITASK_MAX_HOURS:-}" ]] || "$python" "$here/guard.py" check || exit 2
start_ssh
start_jupyter
job=
if [[ -n "${RUN:-}" ]]; then
  "$python" -m multitask job "$RUN" &
  job=$!
fi
[[ -z "${MULTITASK_MAX_HOURS:-}" ]] || "$python" "$here/guard.py" ${job:+"$job"} &
if [[ -n "$job" ]]; then
  do_job
fi
exec "$@"
