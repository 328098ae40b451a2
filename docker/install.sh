#!/usr/bin/env bash
# Installs multitask into the image's environment ($PYTHON). Everything that is there is a
# constraint, and afterwards every pin is compared: a moved one fails the build, as does an image
# whose own entrypoint ($UPSTREAM) sources what environment.sh does not.
set -euo pipefail

: "${PYTHON:?the environment of the image}" "${SOURCE:?our sources}" "${EXTRAS:?extras of ours}"
: "${UPSTREAM:?the entrypoint of the image}"

fail() {
  printf 'install.sh: %s\n' "$1" >&2
  exit 1
}

# Installed packages with exact versions; what is installed from a folder or a URL has none.
pins() {
  uv pip freeze --python "$PYTHON" | { grep -E '^[A-Za-z0-9._-]+==' || true; } | sort
}

# Files that an entrypoint sources itself, not those that it lets shells source.
sourced() {
  sed -nE 's#^[[:space:]]*(source|\.)[[:space:]]+"?(\$\{MULTITASK_ROOT:-\})?(/[^"[:space:]]+).*#\3#p' \
    "$1" | sort -u
}

[[ -f "$UPSTREAM" ]] || fail "$UPSTREAM is not there; is this Axolotl's image?"
unknown="$(comm -23 <(sourced "$UPSTREAM") <(sourced "$SOURCE/docker/environment.sh"))"
[[ -z "$unknown" ]] ||
  fail "Axolotl's entrypoint sources ${unknown//$'\n'/, }, and docker/environment.sh does not"

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
