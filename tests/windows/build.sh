#!/usr/bin/env bash
# Builds the Windows program and the tests of platform-neutral crates on Debian, with Debian's own
# Rust (it brings the standard library's source, from which that of Windows is built) and mingw.
# Installs what is missing. Leaves in target/windows:
#   bin/tidegate.exe    the program
#   tests/*.exe         test programs, named FOLDER.KIND.NAME.exe
#   bin/tracestandin.dll  a STAND-IN for trace functions, for tests only: see standin/src/lib.rs
# and, beside both, bcryptprimitives.dll, which Wine 8 has not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/windows/packages.sh
windows_packages

out=$PWD/target/windows
target=x86_64-pc-windows-gnu
mkdir -p "$out/bin" "$out/tests"
# The compilers of Debian and of rustup must not undo each other's work: a target directory of its own, and
# every program by its full path. build-std is not stable; a release has to be told to allow it.
# Debug information would only slow the linking down.
unset RUSTUP_TOOLCHAIN RUSTFLAGS CARGO_BUILD_TARGET
export RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc
export CARGO_TARGET_DIR="$out/build" CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=false
# one command, so that every dependency is built once
packages=(tidegate tidegate-proto tidegate-etl tidegate-sources tidegate-sinks tidegate-ring tidegate-trace-standin)
/usr/bin/cargo build -Zbuild-std=std,panic_unwind --target "$target" --locked \
  --lib --bins --tests --message-format=json-render-diagnostics "${packages[@]/#/-p}" >"$out/built.json"

rm -f "$out"/tests/*.exe
python3 - "$out" <<'PYTHON'
import json, os, shutil, sys
out = sys.argv[1]
for line in open(out + "/built.json"):
    built = json.loads(line)
    if built["reason"] != "compiler-artifact":
        continue
    package = built["package_id"].split("#")[0].rsplit("/", 1)[1]
    kind, name = built["target"]["kind"][0], built["target"]["name"]
    for path in built["filenames"]:
        if path.endswith("tracestandin.dll"):
            shutil.copy(path, out + "/bin/")
    exe = built["executable"]
    if exe and built["profile"]["test"]:
        shutil.copy(exe, f"{out}/tests/{package}.{kind}.{name}.exe")
    elif exe:
        shutil.copy(exe, out + "/bin/")
PYTHON
x86_64-w64-mingw32-gcc -shared -O1 -o "$out/bin/bcryptprimitives.dll" tests/windows/ProcessPrng.c -ladvapi32
cp "$out/bin/bcryptprimitives.dll" "$out/tests/"
ls -s --block-size=M "$out/bin" "$out/tests"
