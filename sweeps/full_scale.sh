#!/usr/bin/env bash
# What a GPU's minutes allow of the paper's full scale: the bench first, then Figure 1 at equal epochs (fig1_matched),
# seed by seed, stopping in time with everything saved. The results go into one folder; give it to the next call, on any
# machine, and the work resumes where it stopped.
#
#   sweeps/full_scale.sh OUT MINUTES [key=value ...]
#
# OUT      gets results/ (runs, checkpoints, tables), bench/ and full_scale.log; what an earlier call left there is used
# MINUTES  of training; the bench before it takes about two more on a GPU, once
# key=value  overrides, as `make sweep-fig1_matched ARGS=` takes them (seed=0; train.epochs=1 model.depth=8 to try it)
#
# Environment: PYTHON (default: .venv's, else python3), DATA_ROOT (default: data), SWEEP (default: fig1_matched),
# ROWS (of the bench; empty: none). A machine without network needs the packages' wheels in .whl/ once.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2; }
out=$(mkdir -p "$1" && cd "$1" && pwd)
minutes=$2
shift 2
cd "$(dirname "$0")/.."
exec > >(tee -a "$out/full_scale.log") 2>&1

python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || command -v python3)}
export BNSTUDY_DATA_ROOT=${DATA_ROOT:-data}
export PYTHONPATH=src:.${PYTHONPATH:+:$PYTHONPATH}
if ls .whl/*.whl >/dev/null 2>&1; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target .site .whl/*.whl
  export PYTHONPATH=.site:$PYTHONPATH
fi

rows=${ROWS-resnet110_bn,resnet110,resnet110_bn_bf16,resnet110_bf16,resnet110_bn_at_once_fp32,resnet110_bn_at_once_bf16}
if [ -n "$rows" ] && [ ! -d "$out/bench" ]; then
  "$python" -m benchmarks --rows "$rows" --results "$out" || echo "full_scale: a row of the bench failed; training goes on"
fi

# Where the time is spent, it says what is left and exits with 0: the next call resumes there.
status=0
"$python" -m bnstudy sweep "${SWEEP:-fig1_matched}" --preset full --budget-min "$minutes" --results "$out/results" \
  tracking.mode=off "$@" || status=$?
echo "full_scale: ended with exit status $status; in $out/results:"
find "$out/results" -name manifest.json | wc -l | xargs echo "  manifests:"
find "$out/results" -name '*.parquet' -path '*tables*' | sed 's/^/  /'
exit "$status"
