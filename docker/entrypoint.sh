#!/usr/bin/env bash
# First process of the image, in its three roles: pod, node of an Instant Cluster, serverless
# worker. It keeps RunPod's conventions (ssh by PUBLIC_KEY, Jupyter by JUPYTER_PASSWORD), then
# starts the machine's part of a job where MULTITASK_RUN_ID names one.
#
# MULTITASK_ROOT is a folder that stands for /, for tests.
set -euo pipefail

root="${MULTITASK_ROOT:-}"
home="$root${HOME:-/root}"
python="${MULTITASK_PYTHON:-/workspace/axolotl-venv/bin/python}"
prefix="${MULTITASK_PREFIX:-/opt/multitask}"
volume="${MULTITASK_VOLUME:-/workspace/data}"
most_crashes=5
become=()

say() {
  printf '[entrypoint] %s\n' "$1" >&2
}

is_serverless() {
  [[ "${MULTITASK_ROLE:-}" == serverless || (-z "${MULTITASK_ROLE:-}" && -n "${RUNPOD_ENDPOINT_ID:-}") ]]
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
  local line=". $prefix/bin/runpod.sh"
  if ! grep -qxF -- "$line" "$home/.bashrc" 2>/dev/null; then
    # Before anything else: Axolotl's own lines may start tmux and end the shell.
    printf '%s\n%s\n' "$line" "$(cat -- "$home/.bashrc" 2>/dev/null || true)" >"$home/.bashrc.new"
    mv -- "$home/.bashrc.new" "$home/.bashrc"
  fi
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

# Prints what a command of the job is started with: nothing, or what makes it the user multitask,
# where that user can run Python and write to the volume.
as_user() {
  local user="${MULTITASK_USER:-multitask}"
  if [[ "$user" == root || "$(id -u)" != 0 ]] || ! id -u "$user" >/dev/null 2>&1; then
    return
  fi
  local become=(setpriv "--reuid=$user" "--regid=$user" --init-groups env "HOME=/home/$user")
  local runs="$root$volume/runs" run
  run="$runs/${MULTITASK_RUN_ID:-}"
  [[ -d "$run" ]] || run="$runs"
  # A network disk may not let anyone change owners; the test below decides.
  if mkdir -p -- "$runs" && chown "$user" -- "$runs" 2>/dev/null &&
    "${become[@]}" test -w "$run" 2>/dev/null && "${become[@]}" "$python" -c '' 2>/dev/null; then
    printf '%s\n' "${become[@]}"
  else
    say "the user $user cannot write to $volume or start Python: the job runs as root"
  fi
}

# Restarts the machine's part when it crashes; when it cannot work, it removes the machine, which
# nobody would pay for knowingly.
run_machine() {
  local child=0 code crashes=0 guard
  "${become[@]}" "$python" -m multitask.machine guard &
  guard=$!
  trap '[[ $child == 0 ]] || kill -TERM "$child" 2>/dev/null || true' TERM INT
  trap 'kill "$guard" 2>/dev/null || true' EXIT
  while true; do
    "${become[@]}" "$python" -m multitask.machine serve &
    child=$!
    printf '%s\n' "$child" >"$root/run/multitask.pid"
    code=0
    wait "$child" || code=$?
    # A signal to us ends the first wait; the machine saves a checkpoint and ends after it.
    while kill -0 "$child" 2>/dev/null; do
      code=0
      wait "$child" || code=$?
    done
    case "$code" in
      0 | 143) exit "$code" ;;
    esac
    crashes=$((crashes + 1))
    say "the machine's part ended with exit code $code ($crashes of $most_crashes)"
    if [[ "$code" == 2 || "$crashes" -ge "$most_crashes" ]]; then
      "${become[@]}" "$python" -m multitask.machine remove
      exit "$code"
    fi
    sleep "${MULTITASK_CRASH_SECONDS:-10}"
  done
}

main() {
  require_environment
  mkdir -p -- "$root/run" "$root/var/log"
  if is_serverless; then
    volume="${MULTITASK_VOLUME:-/runpod-volume}"
    mapfile -t become < <(as_user)
    export MULTITASK_ROLE=serverless MULTITASK_PYTHON="$python"
    exec "${become[@]}" "$prefix/worker/bin/python" -m multitask.machine serve
  fi
  mapfile -t become < <(as_user)
  start_ssh
  start_jupyter
  if [[ -n "${MULTITASK_RUN_ID:-}" ]]; then
    run_machine
  fi
  say "no MULTITASK_RUN_ID: this machine waits for people"
  exec "$@"
}

main "$@"
