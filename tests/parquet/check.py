"""Reads a Parquet file with pyarrow and with DuckDB, and compares every row with the JSON Lines
of the same events: check.py FILE.parquet FILE.jsonl

Lines without a place (`seq`), as `tidegate convert` writes them, have the number of the line."""

import base64
import datetime
import json
import sys

import duckdb
import pyarrow.parquet

NAMES = {
    "seq": "seq", "provider": "provider", "guid": "guid", "event": "event", "id": "id",
    "version": "version", "level": "level", "opcode": "opcode", "pid": "pid", "tid": "tid", "cpu": "cpu",
    "activity": "activity", "related": "related", "telemetry_level": "telemetryLevel",
    "opcode_name": "opcodeName", "task_name": "taskName", "message": "message", "decoder": "decoder",
    "sample_ppm": "samplePpm",
}
ABSENT = {"channel": 0, "task": 0}
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def expected(number, line):
    event = json.loads(line)
    event.setdefault("seq", number)
    row = {column: event.get(member) for column, member in NAMES.items()}
    row.update({name: event.get(name, value) for name, value in ABSENT.items()})
    row["keyword"] = int(event["keyword"], 16)
    row["priv_tags"] = int(event.get("privTags", "0x0"), 16)
    row["fields"], row["ext"] = event["fields"], event.get("ext")
    row["raw"] = base64.b64decode(event["raw"]) if "raw" in event else None
    whole, fraction = event["time"].rstrip("Z").split(".")
    seconds = datetime.datetime.fromisoformat(whole + "+00:00") - EPOCH
    row["time"] = int(seconds.total_seconds()) * 10**9 + int(fraction.ljust(9, "0"))
    return row


def compare(reader, rows, wanted):
    assert len(rows) == len(wanted), f"{reader}: {len(rows)} rows, not {len(wanted)}"
    for row, want in zip(rows, wanted):
        for column in ("fields", "ext"):
            row[column] = row[column] if row[column] is None else json.loads(row[column])
        assert row == want, f"{reader}: {row} is not {want}"
    print(f"{reader}: {len(rows)} rows, all as they should be")


def main():
    parquet, lines = sys.argv[1:]
    with open(lines, encoding="utf-8") as file:
        wanted = [expected(n, line) for n, line in enumerate(file.read().split("\n"), 1) if line]

    table = pyarrow.parquet.read_table(parquet)
    time = table.schema.field("time").type
    assert time.unit == "ns" and time.tz == "UTC", time
    place = table.schema.get_field_index("time")
    table = table.set_column(place, "time", table.column("time").cast("int64"))
    compare(f"pyarrow {pyarrow.__version__}", table.to_pylist(), wanted)

    query = "select * replace (epoch_ns(time) as time) from read_parquet(?) order by seq"
    found = duckdb.execute(query, [parquet])
    names = [column[0] for column in found.description]
    rows = [dict(zip(names, row)) for row in found.fetchall()]
    compare(f"duckdb {duckdb.__version__}", rows, wanted)
    query = "select count(*) from read_parquet(?) where json_type(fields) = 'OBJECT'"
    (count,) = duckdb.execute(query, [parquet]).fetchone()
    assert count == len(wanted), f"DuckDB reads fields as JSON in {count} rows only"


main()
