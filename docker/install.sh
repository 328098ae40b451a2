#!/usr/bin/env bash
# Installs multitask into the image's environment ($PYTHON). Everything that is there is a
# constraint, and afterwards every pin is compared: a moved one fails the build.
set -euo pipefail

: "${PYTHON:?the environment of the image}" "${SOURCE:?our sources}" "${EXTRAS:?extras of ours}"

fail() {
  printf 'install.sh: %s\n' "$1" >&2
  exit 1
}

# Installed packages with exact versions; what is installed from a folder or a URL has none.
pins() {
  uv pip freeze --python "$PYTHON" | { grep -E '^[A-Za-z0-9._-]+==' || true; } | sort
}

command -v uv >/dev/null || fail "uv is not on the PATH; is this Axolotl's image?"
work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT

pins >"$work/before"
[[ -s "$work/before" ]] || fail "$PYTHON has no packages; is this Axolotl's image?"
# From a copy: building the wheel would write into the read-only source.
mkdir -- "$work/source"
cp -r -- "$SOURCE"/{pyproject.toml,README.md,LICENSE,multitask,templates,configs} "$work/source"
uv pip install --python "$PYTHON" --constraint "$work/before" \
  "multitask[$EXTRAS] @ file://$work/source"
pins >"$work/after"
moved="$(comm -23 "$work/before" "$work/after")"
[[ -z "$moved" ]] || fail "these pins of the image would change: ${moved//$'\n'/, }"
"$PYTHON" -m multitask --version
