#!/usr/bin/env bash
# Starts Apache Kafka in KRaft mode on a free port of this machine, without TLS, and prints its HOST:PORT once it
# answers. It runs, with its data in a new folder, until this script is ended.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
libs=$(bash "$here/install.sh")
work=$(mktemp -d)
broker=
finish() {
  [ -z "$broker" ] || kill -9 "$broker" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 0' INT TERM
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free)
controller=$(free)
cat >"$work/server.properties" <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$work/data
offsets.topic.replication.factor=1
auto.create.topics.enable=false
END
java -Xmx256m -cp "$libs/*" kafka.tools.StorageTool format -t dGlkZWdhdGUtYnJva2VyLTE \
  -c "$work/server.properties" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 70; }
java -Xmx256m -cp "$libs/*" kafka.Kafka "$work/server.properties" >"$work/log" 2>&1 &
broker=$!
for _ in $(seq 600); do
  kill -0 "$broker" 2>/dev/null || { cat "$work/log" >&2; echo "error: the broker ended" >&2; exit 69; }
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    echo "127.0.0.1:$port"
    wait "$broker"
    exit
  fi
  sleep 0.1
done
echo "error: the broker did not start within a minute" >&2
exit 69
