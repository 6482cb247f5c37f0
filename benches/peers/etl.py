#!/usr/bin/env python3
"""Times dissect.etl and etl-parser beside tidegate-etl on the same traces, in one run, on one core.

    benches/peers/etl.py [TRACE ...]

Without arguments: a TraceLogging trace of 20,000 events (made from a given one by the `rates`
example) and three traces of tests/data/etl. Needs cargo, Python 3.9 or later and a package index;
the two packages go into a virtual environment of their own under target/.

Walking is reaching every record's header. Decoding is asking for the fields of every event, whatever
the tool can make of it: neither peer decodes most manifest events, and dissect.etl no TraceLogging.
A peer's run is cut after a minute; its rate is of what it did by then. All are timed by their CPU
time (ours by the clock where the system does not tell a thread's): the machine may do other things
too.
"""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRACES = ROOT / "tests/data/etl/traces"
PACKAGES = {"dissect.etl": "3.14", "etl-parser": "1.0.1"}
LIMIT_S = 60.0


class Timer:
    """Counts records and says when a run has taken long enough."""

    def __init__(self):
        self.start = time.perf_counter()
        self.cpu = time.process_time()
        self.records = 0
        self.decoded = 0
        self.cut = False

    def record(self):
        self.records += 1
        if self.records % 256 == 0 and time.perf_counter() - self.start > LIMIT_S:
            self.cut = True
            raise StopIteration

    def result(self):
        took = time.process_time() - self.cpu
        return {"records": self.records, "decoded": self.decoded, "per_s": self.records / took, "cut": self.cut}


def run_dissect(data, decode):
    from dissect.etl import ETL

    timer = Timer()
    try:
        for record in ETL(io.BytesIO(data)):
            if decode:
                try:
                    # The structure of a payload it knows; its event_values() fails with the
                    # dissect.cstruct that pip chooses today, so this is what it can give.
                    timer.decoded += record.event._struct is not None
                except Exception:  # counted as not decoded
                    pass
            timer.record()
    except StopIteration:
        pass
    return timer.result()


def run_etl_parser(data, decode):
    from etl.etl import IEtlFileObserver, build_from_stream

    timer = Timer()

    class Observer(IEtlFileObserver):
        def attempt(self, *ways):
            if decode:
                for way in ways:
                    try:
                        way()
                        timer.decoded += 1
                        break
                    except Exception:  # counted as not decoded
                        pass
            timer.record()

        def on_event_record(self, event):
            self.attempt(event.parse_tracelogging, event.parse_etw)

        def on_trace_record(self, event):
            self.attempt()

        def on_perfinfo_trace(self, event):
            self.attempt(event.get_mof)

        def on_system_trace(self, event):
            self.attempt(event.get_mof)

        def on_win_trace(self, event):
            self.attempt(event.parse_etw)

    try:
        build_from_stream(data).parse(Observer())
    except StopIteration:
        pass
    return timer.result()


def peer(name, path, decode):
    """One run in a process of its own: a crash or a slow import touches nothing else."""
    command = [sys.executable, __file__, "--one", name, str(path), str(int(decode))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    why = (done.stderr.strip().splitlines() or ["ended"])[-1]
    return {"error": why[:80]}


def one(name, path, decode):
    data = Path(path).read_bytes()
    run = {"dissect.etl": run_dissect, "etl-parser": run_etl_parser}[name]
    print(json.dumps(run(data, decode == "1")))


def environment():
    """Runs this script again inside a virtual environment with the peers."""
    folder = ROOT / "target/peers-etl"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    wanted = [f"{name}=={version}" for name, version in PACKAGES.items()]
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted], check=True)
    sys.exit(subprocess.run([python, __file__, "--inside", *sys.argv[1:]], check=False).returncode)


def main(paths):
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    subprocess.run(["cargo", "build", "-q", "--release", "-p", "tidegate-etl", "--example", "rates"], cwd=ROOT, check=True)
    rates = target / "release/examples" / ("rates.exe" if os.name == "nt" else "rates")
    if not paths:
        made = ROOT / "target/tracelogging-20000.etl"
        source = TRACES / "perfview/primitive-types.etl"
        subprocess.run([rates, "--repeat", "20000", source, made], check=True)
        names = ["etlparser/ShutdownPerfDiagLogger", "tx/HTTP_Server", "perfview/net.4.5.2.x64"]
        paths = [made] + [TRACES / f"{name}.etl" for name in names]
    print("| trace | records | tool | walked | records/s | ours is | decoded | events/s | ours is |")
    print("|---|---|---|---|---|---|---|---|---|")
    for path in map(Path, paths):
        ours = json.loads(subprocess.run([rates, path], capture_output=True, text=True, check=True).stdout)
        total = ours["records"]
        print(
            f"| {path.stem} | {total:,} | tidegate-etl | {total:,} | {ours['walk_per_s']:,.0f} | "
            f"| {ours['decoded']:,} | {ours['decode_per_s']:,.0f} | |"
        )
        for name in PACKAGES:
            cells = []
            for decode, rate in ((False, ours["walk_per_s"]), (True, ours["decode_per_s"])):
                result = peer(name, path, decode)
                if "error" in result or not result["records"]:
                    cells += [result.get("error", "nothing"), "", ""]
                    continue
                count = result["decoded"] if decode else result["records"]
                mark = " in a minute" if result["cut"] else ""
                cells += [f"{count:,}{mark}", f"{result['per_s']:,.0f}", f"{rate / result['per_s']:,.0f}×"]
            print(f"| | | {name} {PACKAGES[name]} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["--one"]:
        # This file has the name of etl-parser's package.
        sys.path.pop(0)
        one(*arguments[1:])
    elif arguments[:1] == ["--inside"]:
        main(arguments[1:])
    else:
        environment()
