#!/bin/bash
# Stands in for the Python of an image: runs it, with whatever arguments it is given, in a container that pyxis starts.
# The image is a file of this node's, named by its digest, imported once and looked at before each use.
set -u
image=/scratch/images/0123.sqsh
exec 9>> "$image.lock"
flock 9
if ! (cd "$(dirname "$image")" && sha256sum --status --check "$image.sha256" 2>/dev/null); then
  # Half an image is never found under its name.
  rm -f "$image" "$image.sha256" "$image.part" "$0.failed"
  { enroot import --output "$image.part" 'docker://registry.example#lab/stack:1' >&2 && mv "$image.part" "$image" \
    && (cd "$(dirname "$image")" && sha256sum "${image##*/}" > "$image.sha256"); } || { : > "$0.failed"; exit 125; }
fi
exec 9>&-
export NVIDIA_VISIBLE_DEVICES=GPU-1 NVIDIA_DRIVER_CAPABILITIES=compute,utility
mounts='/scratch/a b:/scratch/a b:ro,/weights:/weights:ro'
# A cell begins in its work folder, the one that it may write to.
[ "$PWD" = / ] || mounts=$mounts,$PWD:$PWD
exec srun --jobid=12 --nodelist=gpu1 --overlap --nodes=1 --ntasks=1 --cpu-bind=none --kill-on-bad-exit \
  --job-name=stackbench-1 --container-image="$image" --container-readonly --no-container-mount-home \
  --no-container-entrypoint --no-container-remap-root --container-workdir="$PWD" --container-mounts="$mounts" \
  --container-env=HOME,PYTHONPATH \
  /opt/stack/bin/python "$@"
