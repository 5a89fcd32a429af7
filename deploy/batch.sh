#!/bin/sh
# New studies in, results out: for cron, or the export hook of a scanner's host. Needs flock (util-linux) and GNU find.
#
#   batch.sh IN OUT [options of edgeseg infer]
#
# Segments every study below IN that OUT has no results of yet. Studies that failed are tried again by every run.
# One run at a time works on OUT; what a killed one left half done is cleared away and done by the next.
#
# Settings, from the environment:
#   EDGESEG          the command, where it is not on the PATH        (edgeseg)
#   EDGESEG_LOG      file that the run's lines are added to          (OUT/batch.log)
#   EDGESEG_WAIT_S   how long to wait for a run that is at work      (0: not at all)
#   EDGESEG_QUIET_S  wait until nothing in IN has changed for so long, an hour at most; 0 where IN is complete whenever
#                    this is called                                  (60)
#
# Exit codes: those of edgeseg infer (0 all done or nothing there, 2 nothing usable or no place for results, 3 some
# studies failed and the others are done, ...), 64 wrong usage, 75 another run is at work.
set -eu

if [ "$#" -lt 2 ] || [ ! -d "$1" ]; then
    echo "usage: batch.sh IN OUT [options of edgeseg infer]; IN is a folder of studies" >&2
    exit 64
fi
in=$1
out=$2
shift 2
mkdir -p "$out" || exit 2
log=${EDGESEG_LOG:-$out/batch.log}

say() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S%z') $*" >>"$log" || true
}

# Held by this process and by the run that it starts, so it ends with the later of them, however they end.
exec 9>"$out/.batch.lock"
if ! flock --wait "${EDGESEG_WAIT_S:-0}" 9; then
    say "another run is at work: nothing done"
    exit 75
fi

quiet=${EDGESEG_QUIET_S:-60}
waited=0
while [ "$quiet" -gt 0 ] && [ "$waited" -lt 3600 ] &&
    [ -n "$(find "$in" -newermt "-$quiet seconds" -print -quit)" ]; do
    sleep 1
    waited=$((waited + 1))
done
if [ -z "$(find "$in" -type f -print -quit)" ]; then
    say "nothing there"
    exit 0
fi

say "started"
code=0
"${EDGESEG:-edgeseg}" infer "$in" -o "$out" "$@" >>"$log" 2>&1 || code=$?
say "ended with exit code $code"
exit "$code"
