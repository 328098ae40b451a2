#!/usr/bin/env bash
# install.sh package|worker|user: what the Dockerfile installs of ours.
#
# package: multitask into the image's environment ($PYTHON). Everything that is there is a
#   constraint, and afterwards every pin is compared: a moved one fails the build.
# worker: RunPod's SDK and multitask without its dependencies in $PREFIX/worker.
# user: an account for the job's processes.
set -euo pipefail

: "${PYTHON:?the environment of the image}" "${PREFIX:?where ours goes}" "${SOURCE:?our sources}"

fail() {
  printf 'install.sh: %s\n' "$1" >&2
  exit 1
}

# Installed packages with exact versions; what is installed from a folder or a URL has none.
pins() {
  uv pip freeze --python "$1" | { grep -E '^[A-Za-z0-9._-]+==' || true; } | sort
}

# Without a copy, building the wheel would write into the read-only source.
copied_source() {
  local copy="$work/source"
  mkdir -p -- "$copy"
  cp -r -- "$SOURCE"/{pyproject.toml,README.md,LICENSE,multitask,templates,configs} "$copy"
  printf '%s' "$copy"
}

package() {
  pins "$PYTHON" >"$work/before"
  [[ -s "$work/before" ]] || fail "$PYTHON has no packages; is this Axolotl's image?"
  uv pip install --python "$PYTHON" --constraint "$work/before" \
    "multitask[${EXTRAS:?extras of the package}] @ file://$(copied_source)"
  pins "$PYTHON" >"$work/after"
  local moved
  moved="$(comm -23 "$work/before" "$work/after")"
  [[ -z "$moved" ]] || fail "these pins of the image would change: ${moved//$'\n'/, }"
  "$PYTHON" -m multitask --version
}

worker() {
  uv venv --python "$PYTHON" "$PREFIX/worker"
  local python="$PREFIX/worker/bin/python"
  uv pip install --python "$python" 'runpod>=1.9,<2' httpx jinja2 pydantic pyyaml typer
  uv pip install --python "$python" --no-deps "multitask @ file://$(copied_source)"
  "$python" -c 'import runpod, multitask.machine.serverless'
}

user() {
  useradd --create-home --shell /bin/bash --uid 1000 multitask
  chmod o+x /root
}

command -v uv >/dev/null || fail "uv is not on the PATH; is this Axolotl's image?"
work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT
case "${1:-}" in
  package | worker | user) "$1" ;;
  *) fail "say package, worker or user" ;;
esac
