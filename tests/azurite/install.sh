#!/usr/bin/env bash
# Installs the Azure Storage emulator under target/, by its lock file, and prints the path of its
# blob server. Does nothing the second time.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
to=${CARGO_TARGET_DIR:-$here/../../target}/azurite
mkdir -p "$to"
to=$(cd "$to" && pwd)
want=$(cat "$here/package.json" "$here/package-lock.json" | sha256sum)
if [ "$(cat "$to/installed" 2>/dev/null)" != "$want" ]; then
  command -v npm >/dev/null || {
    echo "error: npm is missing: install Node.js 20 or later (Debian: apt-get install nodejs npm)" >&2
    exit 69
  }
  rm -f "$to/installed"
  cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$to/"
  (cd "$to" && npm ci --omit=dev --no-progress >"$to/npm.log" 2>&1) || {
    cat "$to/npm.log" >&2
    echo "error: npm could not install Azurite: is the npm registry reached?" >&2
    exit 69
  }
  echo "$want" >"$to/installed"
fi
echo "$to/node_modules/azurite/dist/src/blob/main.js"
