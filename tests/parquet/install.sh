#!/usr/bin/env bash
# Installs two readers of Parquet that we did not write, pyarrow and DuckDB, under target/, and prints
# the path of the Python that has them. Does nothing the second time. Needs Python 3.10 or later with venv.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
to=${CARGO_TARGET_DIR:-$here/../../target}/parquet-readers
mkdir -p "$to"
to=$(cd "$to" && pwd)
want=$(sha256sum <"$here/requirements.txt")
if [ "$(cat "$to/installed" 2>/dev/null)" != "$want" ]; then
  command -v python3 >/dev/null || {
    echo "error: python3 is missing: install Python 3.10 or later (Debian: apt-get install python3-venv)" >&2
    exit 69
  }
  rm -f "$to/installed"
  { python3 -m venv --clear "$to/venv" && "$to/venv/bin/pip" install -r "$here/requirements.txt"; } \
    >"$to/pip.log" 2>&1 || {
    cat "$to/pip.log" >&2
    echo "error: pyarrow and duckdb could not be installed: is PyPI reached, is python3-venv there?" >&2
    exit 69
  }
  echo "$want" >"$to/installed"
fi
echo "$to/venv/bin/python"
