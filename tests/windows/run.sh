#!/usr/bin/env bash
# Tries the Windows program under Wine:
#   * the tests of platform-neutral crates;
#   * inspect and replay of every trace, compared byte for byte with what the program gives here;
#   * the policy keys of a real registry;
#   * a ring whose key DPAPI seals;
#   * the error of a live session that may not be had;
#   * the live path, against a STAND-IN for the trace functions of Windows, which Wine has not.
# Usage: tests/windows/run.sh [--no-build] [TRACE...]     (without traces: those of tests/data)
# TIDEGATE_LINUX names a program to compare with that is built already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
started=$SECONDS
step() { printf '\n== %s (at %d s)\n' "$*" $((SECONDS - started)); }
if [ "${1:-}" = --no-build ]; then shift; else
  step "building the Windows program"
  tests/windows/build.sh
fi
if [ -z "${TIDEGATE_LINUX:-}" ]; then
  # as tests/run builds it
  cargo test --locked --workspace --no-run --quiet
  TIDEGATE_LINUX=${CARGO_TARGET_DIR:-target}/debug/tidegate
fi
linux=$(realpath "$TIDEGATE_LINUX")
out=$PWD/target/windows
work=$(mktemp -d)
# a prefix of its own: it has a registry, which is changed here
export WINEDEBUG=-all WINEPREFIX=$work/prefix WINEDLLOVERRIDES="mscoree,mshtml="
finish() {
  code=$?
  wineserver -k 2>/dev/null || true
  [ -z "${TIDEGATE_KEEP:-}" ] || { echo "kept: $work"; exit $code; }
  rm -rf "$work" 2>/dev/null || { sleep 1; rm -rf "$work" || true; }
  exit $code
}
trap finish EXIT
fail() { echo "tests/windows/run.sh: FAILED: $*" >&2; exit 1; }
tidegate() { timeout 300 wine "$out/bin/tidegate.exe" "$@"; }
# a path as the Windows program names it
windows() { printf 'Z:%s' "${1//\//\\}"; }

step "a Wine prefix"
timeout 180 wineboot -i >"$work/wineboot.log" 2>&1 || { cat "$work/wineboot.log" >&2; fail wineboot; }
wine --version

step "tests of platform-neutral crates"
tests=$(mktemp -d -p "$work")
for exe in "$out"/tests/*.exe; do
  name=$(basename "$exe" .exe)
  skip=() only=()
  case $name in
  *.standin) continue ;; # below
  # their configurations and processes are Unix's: paths that TOML would escape, kill(2), loop devices
  collector.test.way | ring.test.crash) continue ;;
  # of sinks only what asks Windows itself; the rest talks to servers, and is the same here
  sinks.lib.tidegate_sinks) only=(secret::) ;;
  # Wine tells a file's last change as its creation, which is what tells a truncated file from a new one
  sources.test.it)
    skip=(--skip a_file_rewritten_to_a_greater_length_is_noticed
      --skip a_truncated_file_is_read_from_its_start_with_a_gap)
    ;;
  esac
  code=0
  try() { TMP=$(windows "$tests") TEMP=$(windows "$tests") timeout 900 wine "$exe" "${only[@]}" --test-threads=2 "${skip[@]}" >"$work/test.log" 2>&1; }
  try || code=$?
  if [ $code -ne 0 ] && ! grep -aq '^test result' "$work/test.log"; then
    echo "WARNING: $name ended without a result (exit code $code, Wine): once more"
    code=0
    try || code=$?
  fi
  result=$(grep -a '^test result' "$work/test.log" | tail -n 1 | tr -d '\r' || true)
  printf '%-32s %s\n' "$name" "$result"
  if [ $code -ne 0 ]; then
    { grep -av ' \.\.\. ok' "$work/test.log" || true; } | tail -n 60 >&2
    fail "$name: exit code $code"
  fi
done

step "inspect and replay of every trace, compared byte for byte with what the program gives here"
if [ $# -gt 0 ]; then traces=("$@"); else traces=(tests/data/etl/traces/*/*.etl); fi
mkdir "$work/l" "$work/w"
events=0
compare() {
  local l=0 w=0 trace=$1
  shift
  "$linux" "$@" "$trace" >"$work/l/out" 2>"$work/l/err" || l=$?
  tidegate "$@" "$trace" >"$work/w/out" 2>"$work/w/err" || w=$?
  [ $l -eq $w ] || { cat "$work/l/err" "$work/w/err" >&2; fail "$1 $trace: exit code $w under Wine, $l here"; }
  if ! cmp "$work/l/out" "$work/w/out"; then
    diff "$work/l/out" "$work/w/out" | head -n 4 | cut -c 1-600 >&2
    fail "$* $trace differs"
  fi
}
for trace in "${traces[@]}"; do
  compare "$trace" inspect --summary
  compare "$trace" inspect --summary --json
  compare "$trace" inspect --events
  events=$((events + $(wc -l <"$work/l/out")))
done
echo "inspect: ${#traces[@]} traces, $events events, and every summary, are the same"
for trace in "${traces[@]}"; do
  l=0 w=0
  "$linux" replay "$trace" --to stdout -q >"$work/l/out" 2>"$work/l/err" || l=$?
  tidegate replay "$trace" --to stdout -q >"$work/w/out" 2>"$work/w/err" || w=$?
  [ $l -eq $w ] || { cat "$work/l/err" "$work/w/err" >&2; fail "replay $trace: exit code $w under Wine, $l here"; }
  # gaps name the file with its folder, which Windows writes otherwise
  full=$(realpath "$trace")
  here=$full there=$(windows "$full") python3 - "$work/w/out" <<'PYTHON'
import json, os, sys
with open(sys.argv[1], "rb") as f:
    text = f.read()
there, here = (json.dumps(os.environ[n])[1:-1].encode() for n in ("there", "here"))
with open(sys.argv[1], "wb") as f:
    f.write(text.replace(there, here))
PYTHON
  if ! cmp "$work/l/out" "$work/w/out"; then
    diff "$work/l/out" "$work/w/out" | head -n 4 | cut -c 1-600 >&2
    fail "replay $trace differs"
  fi
done
echo "replay: ${#traces[@]} traces are the same"

step "policy in the registry"
config() {
  cat >"$work/$1.toml" <<END
[ring]
path = '$(windows "$work/$1.ring")'
size = "64MiB"
[telemetry]
level = "$2"
policy_file = '$(windows "$work/$1.policy")'
[sources.live]
type = "etw"
session = "Tidegate-$1"
providers = [{ provider = "Microsoft-Windows-DNS-Client" }]
[sinks.out]
type = "directory"
path = '$(windows "$work/$1.out")'
END
}
config policy Enhanced
sed '/sources.live/,/^providers/d' "$work/policy.toml" >"$work/start.toml"
cat >>"$work/start.toml" <<END
[sources.demo]
type = "synthetic"
events = 10
END
policy='HKLM\SOFTWARE\Policies\Microsoft\Windows\DataCollection'
device='HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\DataCollection'
# level WANT DECIDED_BY PART_OF_POLICY: what `level show` says
level() {
  tidegate level show --json -c "$work/policy.toml" >"$work/level.json" 2>"$work/level.err" ||
    { cat "$work/level.err" >&2; fail "level show"; }
  python3 - "$work/level.json" "$@" <<'PYTHON' || { cat "$work/level.json" >&2; fail "level show, wanted $*"; }
import json, sys
told = json.load(open(sys.argv[1]))
level, by, part = sys.argv[2:]
assert (told["level"], told["decided_by"]) == (int(level), by), told
assert part in json.dumps(told["ceilings"]["policy"]), told
PYTHON
  echo "  level $1 by $2  $3"
}
reg() { wine reg "$@" /f >/dev/null 2>&1 || fail "reg $*"; }
mkdir "$work/policy.ring"
level 2 configuration null
reg add "$policy" /v AllowTelemetry /t REG_DWORD /d 1
level 1 policy '"level": 1'
reg add "$policy" /v AllowTelemetry /t REG_DWORD /d 3
level 2 configuration '"level": 3'
reg add "$device" /v AllowTelemetry /t REG_DWORD /d 1
level 1 policy '"level": 1'
reg add "$device" /v AllowTelemetry /t REG_DWORD /d 3
reg add "$device" /v MaxTelemetryAllowed /t REG_DWORD /d 0
level 0 policy '"level": 0'
reg delete "$device" /v MaxTelemetryAllowed
reg add "$policy" /v AllowTelemetry /t REG_DWORD /d 4
level 0 policy 'AllowTelemetry'
reg add "$policy" /v AllowTelemetry /t REG_SZ /d 3
level 0 policy 'REG_SZ'
reg delete "$policy" /v AllowTelemetry
level 2 configuration '"level": 3'
reg delete "$device" /v AllowTelemetry
level 2 configuration null

step "a ring whose key DPAPI seals"
key=$work/sealed.key
cat >"$work/dpapi.toml" <<END
[ring]
path = '$(windows "$work/dpapi.ring")'
compression = "none"
key = 'dpapi:$(windows "$key")'
[telemetry]
policy_file = '$(windows "$work/no-policy")'
level = 3
scrub = false
[health]
events = false
END
python3 - "$work/events.jsonl" <<'PYTHON'
import sys
with open(sys.argv[1], "w") as f:
    for n in range(100):
        f.write('{"time":"2024-01-01T00:00:00Z","provider":"Shop.1","event":"Sold","data":{"what":"plain-4711-%d"}}\n' % n)
PYTHON
# quiet NAME ARGUMENT...: must work; its output is kept to be looked through for keys
quiet() {
  local to=$work/$1
  shift
  tidegate "$@" >"$to.out" 2>"$to.err" || { cat "$to.out" "$to.err" >&2; fail "$*"; }
}
held() {
  quiet "$1" buffer inspect --events -c "$work/dpapi.toml"
  [ "$(grep -c plain-4711 "$work/$1.out")" = "$2" ] || fail "$1: not $2 events are held"
}
quiet key1 buffer key "$key" --dpapi
# Wine keeps the rights of administrators as those of the group
[[ "$(stat -c %a "$key")" == *0 ]] || fail "everyone may read the sealed key: $(stat -c %a "$key")"
! grep -aqiE '[0-9a-f]{64}' "$key" || fail "the key can be read in its file"
quiet replay1 replay "$work/events.jsonl" -c "$work/dpapi.toml" --log debug
! grep -rqa plain-4711 "$work/dpapi.ring" || fail "an event can be read in the ring's files"
held held1 100
# a new key, sealed for the user alone; the old one still opens what it sealed
quiet key2 buffer key "$key" --dpapi=user --rotate
cmp -s "$work/key1.out" "$work/key2.out" && fail "--rotate made no new key"
sed 's/4711/4712/' "$work/events.jsonl" >"$work/more.jsonl"
quiet replay2 replay "$work/more.jsonl" -c "$work/dpapi.toml" --log debug
held held2 100
[ "$(wc -l <"$work/held2.out")" -eq 200 ] || fail "not all events are held after the rotation"
quiet verify buffer verify -c "$work/dpapi.toml"
cp "$key" "$work/whole.key"
# refused NAME TEXT: the ring does not open, and says why
refused() {
  local code=0
  tidegate buffer status -c "$work/dpapi.toml" --log debug >"$work/$1.out" 2>"$work/$1.err" || code=$?
  [ $code -eq 78 ] && grep -q 'ring.key' "$work/$1.err" && grep -q "$2" "$work/$1.err" ||
    { cat "$work/$1.err" >&2; fail "$1: exit code $code"; }
}
python3 - "$key" <<'PYTHON'
import sys
b = bytearray(open(sys.argv[1], "rb").read())
b[-1] ^= 1
open(sys.argv[1], "wb").write(b)
PYTHON
refused damaged 'cannot unseal'
printf 'of something else' >"$key"
refused foreign 'cannot unseal'
rm "$key"
refused missing 'cannot read the secret'
cp "$work/whole.key" "$key"
# with the old key forgotten, what it sealed stays shut, and the rest opens
quiet key3 buffer key "$key" --dpapi --keep 1
cmp -s "$work/key2.out" "$work/key3.out" || fail "--keep 1 kept another key than the newest"
cp "$work/whole.key" "$key"
held held3 100
# a plain file is sealed where it is
quiet plain buffer key "$work/plain.key"
secret=$(tr -d '\r\n' <"$work/plain.key")
quiet plain2 buffer key "$work/plain.key" --dpapi
! grep -aq "$secret" "$work/plain.key" || fail "the plain key is still there"
cp "$work/plain.key" "$key"
rm -r "$work/dpapi.ring"
quiet replay3 replay "$work/events.jsonl" -c "$work/dpapi.toml" --log trace
held held4 100
! grep -aq "$secret" "$work"/*.out "$work"/*.err || fail "a key is in an output or a log"
echo "made, opened again, rotated; damaged, foreign and missing ones refused"

step "a live session without the right"
config live Full
tidegate validate -c "$work/live.toml" || fail validate
code=0
tidegate run -c "$work/live.toml" -q >"$work/live.log" 2>&1 || code=$?
cat "$work/live.log"
grep -q 'access denied' "$work/live.log" && grep -q 'net localgroup' "$work/live.log" ||
  fail "the error names neither the missing right nor what mends it"
[ $code -eq 77 ] || fail "a session that may not be had ends with exit code $code, not 77 (EX_NOPERM)"

step "the live path against a STAND-IN for the trace functions of Windows"
# Wine 8 compares versions number by number, so that 10.0 is not at least 6.2, which ferrisetw asks; 6.3 is
wine reg add 'HKCU\Software\Wine' /v Version /d win81 /f >/dev/null 2>&1 || fail "the version of Windows"
for exe in "$out"/tests/*.standin.exe; do
  name=$(basename "$exe" .exe)
  mkdir "$work/$name"
  cp "$out/bin/bcryptprimitives.dll" "$work/$name/"
  python3 tests/windows/redirect.py "$exe" "$out/bin/tracestandin.dll" "$work/$name"
  timeout 600 wine "$work/$name/$name.exe" --test-threads=1 --nocapture >"$work/standin.log" 2>&1 || {
    tail -n 60 "$work/standin.log" >&2
    fail "stand-in, $name"
  }
  grep -a '^test ' "$work/standin.log"
done
step "tests/windows/run.sh: all passed"
