#!/usr/bin/env bash
# Fetches Apache Kafka from Maven Central into target/, by pom.xml, and prints the folder of its jars.
# Does nothing the second time. Needs Maven and Java 17 or later.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
to=${CARGO_TARGET_DIR:-$here/../../target}/kafka
mkdir -p "$to"
to=$(cd "$to" && pwd)
want=$(sha256sum <"$here/pom.xml")
if [ "$(cat "$to/installed" 2>/dev/null)" != "$want" ]; then
  for program in java mvn; do
    command -v $program >/dev/null || {
      echo "error: $program is missing (Debian: apt-get install default-jre-headless maven)" >&2
      exit 69
    }
  done
  rm -rf "$to/installed" "$to/libs"
  mvn -q -B -ntp -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$to/libs" >"$to/mvn.log" 2>&1 || {
    cat "$to/mvn.log" >&2
    echo "error: Maven could not fetch Kafka: is Maven Central reached?" >&2
    exit 69
  }
  echo "$want" >"$to/installed"
fi
echo "$to/libs"
