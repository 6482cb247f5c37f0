#!/usr/bin/env bash
# Builds an OpenTelemetry Collector from its Go modules under target/, by go.sum, and prints the path
# of the program. Does nothing the second time. Takes some minutes and 1 GB.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
to=${CARGO_TARGET_DIR:-$here/../../target}/otelcol
mkdir -p "$to"
to=$(cd "$to" && pwd)
want=$(cat "$here/main.go" "$here/go.mod" "$here/go.sum" | sha256sum)
if [ "$(cat "$to/installed" 2>/dev/null)" != "$want" ]; then
  go=$(bash "$here/../go/install.sh")
  rm -f "$to/installed"
  (cd "$here" && GOTOOLCHAIN=local "$go" build -mod=readonly -ldflags="-s -w" -o "$to/otelcol" .) >"$to/go.log" 2>&1 || {
    cat "$to/go.log" >&2
    echo "error: the collector could not be built: is the Go module proxy reached?" >&2
    exit 69
  }
  echo "$want" >"$to/installed"
fi
echo "$to/otelcol"
