#!/usr/bin/env bash
# Healthy: the machine's process lives, and on node 0 its control server answers.
set -euo pipefail

root="${MULTITASK_ROOT:-}"
pid_file="$root/run/multitask.pid"
[[ -f "$pid_file" ]] || exit 0 # a pod without a job: ssh and Jupyter alone
kill -0 "$(<"$pid_file")" 2>/dev/null || exit 1
if [[ "${NODE_RANK:-0}" != 0 || "${MULTITASK_ROLE:-}" == serverless ]]; then
  exit 0
fi
exec "${MULTITASK_PYTHON:-python}" -c '
import sys, urllib.request
url = f"http://127.0.0.1:{sys.argv[1]}/health"
sys.exit(urllib.request.urlopen(url, timeout=5).status != 200)
' "${MULTITASK_CONTROL_PORT:-8000}"
