#!/usr/bin/env bash
# Prints the path of a Go of 1.26 or later. One that is installed is taken; where it is older, as Debian's,
# it fetches the tool chain as a module, by go.sum, into target/. Does nothing the second time.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
need=26
command -v go >/dev/null || {
  echo "error: go is missing (Debian: apt-get install golang-go)" >&2
  exit 69
}
# not what a go.mod or the environment would switch to
minor=$(cd / && GOTOOLCHAIN=local go env GOVERSION | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
if [ "${minor:-0}" -ge $need ]; then
  command -v go
  exit 0
fi
[ "$(uname -sm)" = "Linux x86_64" ] || {
  echo "error: Go 1.$need or later is needed, go is 1.${minor:-?}: install it from go.dev" >&2
  exit 69
}
to=${CARGO_TARGET_DIR:-$here/../../target}/go
mkdir -p "$to"
to=$(cd "$to" && pwd)
want=$(sha256sum <"$here/go.sum")
if [ "$(cat "$to/installed" 2>/dev/null)" != "$want" ] || [ ! -x "$to/tree/bin/go" ]; then
  rm -rf "$to/installed" "$to/tree" "$to/mod"
  (cd "$here" && GOFLAGS=-mod=readonly GOMODCACHE="$to/mod" go mod download golang.org/toolchain) >"$to/go.log" 2>&1 || {
    cat "$to/go.log" >&2
    echo "error: the tool chain could not be fetched: is the Go module proxy reached?" >&2
    exit 69
  }
  # a module's files are read-only and not executable, and it cannot hold another go.mod
  mv "$to"/mod/golang.org/toolchain@* "$to/tree"
  chmod -R u+w "$to/tree" "$to/mod"
  chmod +x "$to"/tree/bin/* "$to"/tree/pkg/tool/*/*
  cp "$to/tree/src/_go.mod" "$to/tree/src/go.mod"
  rm -rf "$to/mod"
  echo "$want" >"$to/installed"
fi
echo "$to/tree/bin/go"
