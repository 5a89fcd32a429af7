#!/bin/bash
# An archive shared out among the tasks of a SLURM job array.
#
#   sbatch slurm-array.sh ARCHIVE OUT [options of edgeseg infer]
#   sbatch --array=1-32 slurm-array.sh ARCHIVE OUT        any number of tasks, from 1 on
#
# Each task takes its share by the hash of the studies' names, so all tasks together do every study once. Submit the
# same array again to go on after a time limit or a failure: what is done is skipped. To submit some tasks alone, say
# how many shares there are: EDGESEG_SHARDS=8 sbatch --array=3,7 slurm-array.sh ARCHIVE OUT
#
# EDGESEG is the command, where it is not on the PATH. Exit codes: those of edgeseg infer; 64 wrong usage.
#SBATCH --job-name=edgeseg
#SBATCH --array=1-8
#SBATCH --cpus-per-task=2
#SBATCH --mem=2G
#SBATCH --time=04:00:00
#SBATCH --output=edgeseg-%A_%a.log
set -eu

if [ "$#" -lt 2 ] || [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then
    echo "usage: sbatch slurm-array.sh ARCHIVE OUT [options of edgeseg infer]" >&2
    exit 64
fi
archive=$1
out=$2
shift 2

shards=${EDGESEG_SHARDS:-}
if [ -z "$shards" ]; then
    shards=${SLURM_ARRAY_TASK_COUNT:-1}
    if [ "${SLURM_ARRAY_TASK_MIN:-1}" != 1 ] || [ "${SLURM_ARRAY_TASK_MAX:-$shards}" != "$shards" ]; then
        echo "the array's tasks are not 1 to $shards: give --array=1-$shards, or the number of shares as EDGESEG_SHARDS" >&2
        exit 64
    fi
fi

exec "${EDGESEG:-edgeseg}" infer "$archive" -o "$out" --shard "$SLURM_ARRAY_TASK_ID/$shards" "$@"
