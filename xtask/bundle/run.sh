#!/usr/bin/env bash
# Holds this machine's CUDA device against the tests beside this file, and measures it.
#
#   run.sh [verify|test|sanitize|bench|criterion|torch|all] [FILTER...]
#
# It needs an NVIDIA driver and nothing else. What it finds goes to $OUT, or to results/ in the current folder; the folder
# of this file is only read. FILTERs are names of tests, words of the rows that `bench` is to measure, or one regular
# expression for criterion's benches. Peers are measured where they are found: cuDNN's library, and PyTorch by
# PYTHON=PROGRAM (python3 otherwise). `torch` tests and measures the Python package with that PyTorch, and pytest. `all` is
# everything but criterion's benches and `torch`. A step that fails or runs out of time is reported, the later ones still
# run, and the exit code is 1 at the end. LIMIT=SECONDS is another time-out a step.
set -uo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) || exit 2
what=${1:-all}
shift $(($# > 0))
case $what in
verify | test | sanitize | bench | criterion | torch | all) ;;
*)
  echo "usage: run.sh [verify|test|sanitize|bench|criterion|torch|all] [FILTER...]" >&2
  exit 2
  ;;
esac
out=${OUT:-results}
mkdir -p -- "$out" || exit 2
out=$(cd -- "$out" && pwd) || exit 2
# Whatever a program leaves in its current folder, it leaves there.
cd -- "$out" || exit 2

export BATCHNORM_DATA=$here
# A test that skips itself is no result.
export BATCHNORM_REQUIRE_GPU=${BATCHNORM_REQUIRE_GPU:-1}
export CRITERION_HOME=$out/criterion
export BATCHNORM_BENCH_OUT=$out/criterion.csv

failed=0
steps=()
: >summary.txt

# report NAME EXIT_CODE SECONDS: a line for people, an entry for programs. Names are plain words: nothing to escape.
report() {
  local word=passed
  case $2 in
  0) ;;
  124 | 137) word="FAILED: out of time" ;;
  *) word="FAILED: exit code $2" ;;
  esac
  [ "$2" -eq 0 ] || failed=$((failed + 1))
  printf '%-10s %s, %d s\n' "$1" "$word" "$3" | tee -a summary.txt
  steps+=("{\"name\": \"$1\", \"exit_code\": $2, \"seconds\": $3}")
}

# step NAME FILE SECONDS COMMAND...: runs it with its output in FILE. All of `all` takes 10 minutes at most.
step() {
  local name=$1 file=$2 limit=$3 begin=$SECONDS code=0
  shift 3
  [ "$what" = all ] || limit=540
  echo "== $name: $* (in $out/$file)"
  timeout --kill-after=10 "${LIMIT:-$limit}" "$@" >"$file" 2>&1 || code=$?
  [ "$code" -eq 0 ] || tail -n 40 -- "$file"
  report "$name" "$code" $((SECONDS - begin))
}

# facts FILE: what the driver says of the device, where its tool is there.
facts() {
  command -v nvidia-smi >/dev/null || return 0
  local of=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,temperature.gpu,power.draw,power.limit
  timeout 20 nvidia-smi --query-gpu="$of" --format=csv >"$1" 2>&1 || echo "nvidia-smi failed: see $out/$1"
}

# sanitize TOOL: a small part of the table, since the sanitizer makes kernels some hundred times slower.
sanitize() {
  local sanitizer=${COMPUTE_SANITIZER:-} found
  for found in "$(command -v compute-sanitizer)" /usr/local/cuda*/bin/compute-sanitizer; do
    [ -n "$sanitizer" ] || [ ! -x "$found" ] || sanitizer=$found
  done
  if [ -z "$sanitizer" ]; then
    echo "$1 skipped: no compute-sanitizer" | tee -a summary.txt
    return
  fi
  export BATCHNORM_TABLE_EVERY=${BATCHNORM_TABLE_EVERY:-211}
  step "$1" "$1.log" 45 "$sanitizer" --tool "$1" --error-exitcode 9 \
    "$here/cuda-tests" --exact table::the_table_holds_under_every_strategy --show-output
  unset BATCHNORM_TABLE_EVERY
}

cp -- "$here/built.txt" . # What was tested.
facts device.csv
step info info.json 20 "$here/batchnorm" info --json
case $what in verify | all)
  step verify verify.log 90 "$here/batchnorm" verify --device cuda --json "$out/verify.json"
  tail -n 2 verify.log
  ;;
esac
case $what in test | all)
  step test tests.log 140 "$here/cuda-tests" --show-output "$@"
  grep '^test result' tests.log
  ;;
esac
case $what in sanitize | all)
  sanitize memcheck
  sanitize racecheck
  sanitize synccheck
  ;;
esac
case $what in bench | all)
  within=500
  [ "$what" = bench ] || within=170
  step bench bench.log $((within + 30)) "$here/batchnorm" bench --device cuda --within "$within" --seconds 0.1 \
    --python "${PYTHON:-python3}" --filter "$*" --json "$out/bench.json" --plot "$out/bench.svg"
  grep '^ResNet-50 step' bench.log
  facts device-after.csv # Whether the clocks have moved.
  ;;
esac
case $what in criterion)
  rm -f -- "$BATCHNORM_BENCH_OUT" # It is appended to.
  step criterion criterion.log 540 "$here/cuda-bench" --bench --noplot "$@"
  grep '^skipped' criterion.log
  ;;
esac
case $what in torch)
  python=${PYTHON:-python3}
  step install install.log 60 "$python" -m pip install --quiet --no-deps --no-index --upgrade --target "$out/python" \
    "$here"/python/*.whl
  export PYTHONPATH=$out/python PYTHONDONTWRITEBYTECODE=1
  step torch-tests torch-tests.log 180 "$python" -m pytest -q -p no:cacheprovider "$here/python/tests" "$@"
  tail -n 1 torch-tests.log
  step digits digits.log 60 "$python" "$here/python/examples/train_digits.py" --device cuda --out "$out/digits.safetensors"
  step train-step train-step.log 240 "$python" "$here/python/benches/train_step.py" --device cuda --json "$out/train-step.json"
  ;;
esac

(
  IFS=,
  printf '{"what": "%s", "failed": %d, "steps": [%s]}\n' "$what" "$failed" "${steps[*]}"
) >summary.json
echo "== $failed of ${#steps[@]} steps failed" | tee -a summary.txt
[ "$failed" -eq 0 ]
