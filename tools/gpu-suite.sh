#!/usr/bin/env bash
# Everything about correctness on a card, in one go: the op and kernel tables in every precision, attention by each family
# of kernels, recordings of PyTorch, 1000 equal runs, the paths of older cards, training beside the CPU, memcheck and
# racecheck. Ends with a Markdown table; the logs stay in the folder that it names.
#   bash tools/gpu-suite.sh [beginnings of the names of jobs; default all]
# FOLLOW_TEXT (a file of text) and FOLLOW_CPU (losses kept by test/gpu/follow-cpu.ts --record) choose the training run;
# NODE is the program that runs TypeScript, SUITE_LOGS the folder of the logs,
# SUITE_LIMIT the most seconds of a job.
set -u
cd "$(dirname "$0")/.."
node=${NODE:-node}
logs=${SUITE_LOGS:-$(mktemp -d /tmp/trainyard-suite-XXXXXX)}
mkdir -p "$logs"
export TRAINYARD_TEST_SEED=${TRAINYARD_TEST_SEED:-$((RANDOM * 32768 + RANDOM))}
wanted=("$@")
names=()
pids=()
started=$SECONDS
limit=${SUITE_LIMIT:-140}

is_wanted() {
  [ ${#wanted[@]} -eq 0 ] && return 0
  local word
  for word in "${wanted[@]}"; do [[ $1 == "$word"* ]] && return 0; done
  return 1
}

# job NAME COMMAND...: starts it; its log, status and seconds are kept under its name.
job() {
  local name=$1
  shift
  is_wanted "$name" || return 0
  names+=("$name")
  (
    begun=$SECONDS
    timeout "$limit" "$@" > "$logs/$name.log" 2>&1
    echo "$? $((SECONDS - begun))" > "$logs/$name.end"
  ) &
  pids+=($!)
}

finish() {
  [ ${#pids[@]} -gt 0 ] && wait "${pids[@]}"
  pids=()
}

# A test file's tests of the card alone.
tests() {
  local devices=$1
  shift
  env TRAINYARD_TEST_DEVICES="$devices" "$node" --test --test-reporter=tap --test-name-pattern='^(cuda|decod)' "$@"
}
export -f tests
export node

tables=(test/ops/ops.test.ts test/ops/kernels.test.ts)
for precision in f32 bf16 f16; do
  job "tables-$precision" bash -c 'tests "$@"' - "cuda $precision" "${tables[@]}"
done
job sm80-tables env TRAINYARD_CUDA_ARCHITECTURE=sm_80 bash -c 'tests "$@"' - 'cuda sm_80' "${tables[@]}"
job attention bash -c 'tests "$@"' - cuda test/gpu/attention.test.ts
job sm80-attention env TRAINYARD_CUDA_ARCHITECTURE=sm_80 bash -c 'tests "$@"' - cuda test/gpu/attention.test.ts
job golden bash -c 'tests "$@"' - cuda test/golden/golden.test.ts
job large-and-optimizers bash -c 'tests "$@"' - cuda test/ops/large.test.ts test/optim/golden.test.ts \
  test/interop/recorded.test.ts
job training bash -c 'tests "$@"' - cuda test/gpu/training.test.ts
for file in test/gpu/*.test.ts; do
  name=$(basename "$file" .test.ts)
  [[ $name =~ ^(attention|determinism|training)$ ]] || job "$name" bash -c 'tests "$@"' - cuda "$file"
done
if [ -n "${FOLLOW_TEXT:-}" ]; then
  job follow-cpu "$node" test/gpu/follow-cpu.ts --text "$FOLLOW_TEXT" ${FOLLOW_CPU:+--cpu "$FOLLOW_CPU"}
fi
finish
job determinism bash -c 'tests "$@"' - cuda test/gpu/determinism.test.ts

# The libraries' own kernels are left out: they are not ours to check, and slow to watch.
sanitizer() {
  local tool=$1
  shift
  compute-sanitizer --tool "$tool" --error-exitcode 1 --launch-timeout 0 --print-limit 20 \
    --kernel-name-exclude 'kns=cutlass' --kernel-name-exclude 'kns=gemm' --kernel-name-exclude 'kns=nvjet' \
    --kernel-name-exclude 'kns=cublas' --kernel-name-exclude 'kns=cudnn' "$node" test/gpu/all-kernels.ts "$@"
}
export -f sanitizer
job memcheck-bf16 bash -c 'sanitizer "$@"' - memcheck --precision bf16 --attention own
job memcheck-f32 bash -c 'sanitizer "$@"' - memcheck --precision f32
job memcheck-fp8 bash -c 'sanitizer "$@"' - memcheck --precision fp8
job memcheck-mma bash -c 'sanitizer "$@"' - memcheck --precision f16 --attention mma --only attention
job racecheck-mma bash -c 'sanitizer "$@"' - racecheck --precision bf16 --attention mma --only attention
finish

count() { grep -E "^# $2 [0-9]+" "$logs/$1.log" | awk '{ sum += $3 } END { print sum + 0 }'; }

bad=0
rows=()
for name in "${names[@]}"; do
  read -r status seconds < "$logs/$name.end"
  if grep -q '^# tests' "$logs/$name.log"; then
    passed=$(count "$name" pass) failed=$(count "$name" fail) skipped=$(count "$name" skipped)
    result="$passed passed, $failed failed, $skipped skipped"
    # A suite of skipped tests counts nothing as passed: no card, or a device that does not open.
    [ "$passed" -gt 0 ] || status=1
  else
    result=$(grep -E '^(ok |FAIL |skipped|=+ (ERROR|RACECHECK) SUMMARY|[0-9]+ rows)' "$logs/$name.log" | tr '\n' ';' | cut -c1-400)
  fi
  verdict=ok
  if [ "$status" -ne 0 ]; then
    verdict="FAIL (status $status)"
    bad=$((bad + 1))
    echo "---- $name"
    if grep -q '^ *not ok' "$logs/$name.log"; then
      grep -E '^ *not ok|relative error|largest element|instead of|differ|[a-zA-Z]Error|cuda: ' "$logs/$name.log" |
        grep -v "failureType\|subtestsFailed\|name: '\|# SKIP" | cut -c1-260 | uniq | head -${SUITE_LINES:-25}
    elif grep -q '# SKIP' "$logs/$name.log"; then
      grep -m1 '# SKIP' "$logs/$name.log"
    else
      grep -v '^ *at ' "$logs/$name.log" | cut -c1-300 | tail -${SUITE_LINES:-25}
    fi
  fi
  rows+=("| $name | $result | $seconds s | $verdict |")
done

grep -h -E '^(# )?(against transformers|largest relative|cuda .*e-)' "$logs/golden.log" 2> /dev/null
echo
echo "| job | result | time | verdict |"
echo "|---|---|---|---|"
printf '%s\n' "${rows[@]}"
echo "seed $TRAINYARD_TEST_SEED, $((SECONDS - started)) s in all, $bad bad; logs in $logs"
exit "$((bad > 0))"
