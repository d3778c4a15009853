#!/usr/bin/env bash
# Every hardware file composes, explains its choice in a dry run, and, where the hardware is absent, is refused by a letter
# instead of a traceback (exit code 2).
set -euo pipefail
cd "$(dirname "$0")/.."
portable=.venv/bin/portable
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
for file in conf/hardware/*.yaml; do
  name="$(basename "$file" .yaml)"
  settings=("hardware=$name" model_path=none data=none "output_dir=$scratch/$name" "hydra.run.dir=$scratch/hydra-$name")
  "$portable" sft --cfg job "${settings[@]}" > "$scratch/config.yaml"
  grep -q "name: $name" "$scratch/config.yaml"
  echo "== $name"
  "$portable" sft dry_run=true "${settings[@]}"
  code=0
  "$portable" sft "${settings[@]}" > "$scratch/log" 2>&1 || code=$?
  if grep -q Traceback "$scratch/log" || [[ "$code" != 2 ]]; then
    cat "$scratch/log"
    echo "hardware=$name: expected exit code 2 and a paragraph, got exit code $code" >&2
    exit 1
  fi
done
