//! `inspect`, `convert`, and what bad input gets: text and exit code.

use std::io::Read as _;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{finish, program, root, run, trace};

const SMALL: &str = "s4/waasmedic.20251005_113019_195";

fn inspect(name: &str, flags: &[&str]) -> crate::support::Ran {
    let file = trace(name);
    finish(program().arg("inspect").arg(file).args(flags))
}

/// Records of the trace as an independent reader counted them.
fn oracle(name: &str) -> Value {
    let path = root().join("tests/data/etl/oracle/scan").join(format!("{}.json", name.replace('/', "__")));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn the_summary_and_the_events_agree_with_the_independent_count() {
    let want = oracle(SMALL)["events"].as_u64().unwrap();
    let summary = inspect(SMALL, &["--json"]).code(0).json();
    assert_eq!(summary["total"]["events"].as_u64(), Some(want));
    let by_event: u64 =
        summary["events"].as_array().unwrap().iter().map(|e| e["events"].as_u64().unwrap()).sum();
    assert_eq!(by_event, want);
    let events = inspect(SMALL, &["--events"]).code(0).lines();
    assert_eq!(events.len() as u64, want);
    assert!(events.is_sorted_by(|a, b| a["time"].as_str() <= b["time"].as_str()));
    let text = inspect(SMALL, &[]).code(0).stdout;
    assert!(text.contains("Microsoft.Windows.WaaSMedic.Local") && text.contains("decoded"), "{text}");
}

#[test]
fn filters_choose_the_same_events_in_every_view() {
    let all = inspect(SMALL, &["--events"]).lines();
    let wanted = |e: &&Value| e["provider"] == "Microsoft.Windows.WaaSMedic.Local" && e["event"] == "Warning";
    let want: Vec<&Value> = all.iter().filter(wanted).collect();
    assert!(!want.is_empty() && want.len() < all.len());
    let flags = ["--provider", "microsoft.windows.waasmedic.*", "--event", "warning"];
    let got = inspect(SMALL, &[&flags[..], &["--events"]].concat()).code(0).lines();
    assert_eq!(got.iter().collect::<Vec<_>>(), want);
    let summary = inspect(SMALL, &[&flags[..], &["--json"]].concat()).code(0).json();
    assert_eq!(summary["total"]["events"].as_u64(), Some(want.len() as u64));
    let stats = inspect(SMALL, &[&flags[..], &["--stats", "--json"]].concat()).code(0).json();
    assert_eq!(stats["events"].as_u64(), Some(want.len() as u64));
    let none = inspect(SMALL, &["--events", "--process", "1"]).code(0);
    assert_eq!(none.stdout, "");
}

#[test]
fn each_filter_chooses_what_the_events_themselves_say() {
    let all = inspect("perfview/gcevents", &["--events"]).lines();
    let number = |e: &Value, member: &str| e[member].as_u64().unwrap_or(u64::MAX);
    let keyword = |e: &Value| u64::from_str_radix(&e["keyword"].as_str().unwrap()[2..], 16).unwrap();
    type Wanted<'a> = &'a dyn Fn(&Value) -> bool;
    let cases: [(&[&str], Wanted<'_>); 6] = [
        (&["--provider", "e13c0d23-ccbc-4e12-931b-d9cc2eee27e4"], &|e| {
            e["guid"] == "e13c0d23-ccbc-4e12-931b-d9cc2eee27e4"
        }),
        (&["--event", "202", "--event", "0xa"], &|e| [202, 10].contains(&number(e, "id"))),
        (&["--process", "179596"], &|e| number(e, "pid") == 179_596),
        (&["--etw-level", "3"], &|e| number(e, "level") <= 3),
        (&["--keyword", "0x8000"], &|e| keyword(e) == 0 || keyword(e) & 0x8000 != 0),
        (&["--etw-level", "verbose", "--keyword", "0x1", "--event", "29"], &|e| {
            number(e, "level") <= 5 && (keyword(e) == 0 || keyword(e) & 1 != 0) && number(e, "id") == 29
        }),
    ];
    for (flags, wanted) in cases {
        let want: Vec<&Value> = all.iter().filter(|e| wanted(e)).collect();
        let got = inspect("perfview/gcevents", &[flags, &["--events"]].concat()).code(0).lines();
        assert!(!want.is_empty() && got.iter().eq(want.iter().copied()), "{flags:?}: {} events", want.len());
    }
}

#[test]
fn a_time_window_can_be_given_from_the_start_of_the_trace() {
    let all = inspect(SMALL, &["--events"]).lines().len();
    let early = inspect(SMALL, &["--events", "--until", "+1s"]).code(0).lines().len();
    let late = inspect(SMALL, &["--events", "--since", "+1s"]).code(0).lines().len();
    assert!(early > 0 && late > 0);
    assert_eq!(early + late, all);
    inspect(SMALL, &["--since", "+2s", "--until", "+1s"]).code(64).says("--since is not before --until");
    inspect(SMALL, &["--since", "noon"]).code(64).says("\"noon\" is no time");
}

#[test]
fn csv_has_a_heading_and_a_row_per_event() {
    let events = inspect(SMALL, &["--events"]).lines();
    let csv = inspect(SMALL, &["--events", "--format", "csv"]).code(0).stdout;
    let mut rows = csv.split("\r\n");
    let columns = rows.next().unwrap().split(',').count();
    assert_eq!(columns, 19);
    assert_eq!(rows.filter(|r| !r.is_empty()).count(), events.len());
}

#[test]
fn a_picture_of_the_rate_has_a_peak_and_both_ends() {
    let text = inspect("perfview/gcevents", &["--stats"]).code(0).stdout;
    assert!(text.contains('█') && text.contains("/s │") && text.contains(" to "), "{text}");
}

#[test]
fn a_trace_converts_to_what_inspect_prints() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("events.jsonl");
    finish(program().args(["convert", "--to", "jsonl", "-o"]).arg(&to).arg(trace(SMALL))).code(0);
    // the file can be read again, which takes the types
    let mut typed = 0;
    let untyped = |line: &str| {
        let Some((event, types)) = line.rsplit_once(",\"types\":\"") else { return format!("{line}\n") };
        assert!(types.ends_with("\"}"), "{line}");
        typed += 1;
        format!("{event}}}\n")
    };
    let converted: String = std::fs::read_to_string(&to).unwrap().lines().map(untyped).collect();
    assert!(typed > 0);
    assert_eq!(converted, inspect(SMALL, &["--events"]).stdout);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no partial file stays");
}

#[test]
fn a_capture_holds_every_event_and_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("events.cap");
    finish(program().args(["convert", "--to", "capture", "-o"]).arg(&to).arg(trace(SMALL))).code(0);
    let file = std::io::BufReader::new(std::fs::File::open(&to).unwrap());
    let mut reader = tidegate_proto::capture::CaptureReader::new(file).unwrap();
    let mut interner = tidegate_proto::wire::SchemaInterner::new();
    let mut batch = tidegate_proto::batch::Batch::new();
    while let Some(block) = reader.next_block().unwrap() {
        let block = tidegate_proto::wire::BlockReader::new(block, &mut interner).unwrap();
        block.read_into(&mut batch).unwrap();
    }
    let mut lines = Vec::new();
    for event in batch.iter() {
        assert_eq!(event.head().telemetry_level, None, "no gate has judged it");
        tidegate_proto::json::write_event(&mut lines, event, None);
        lines.push(b'\n');
    }
    assert_eq!(String::from_utf8(lines).unwrap(), inspect(SMALL, &["--events"]).stdout);
}

/// `tests/parquet/install.sh` prints the Python to put into `TIDEGATE_PARQUET_PYTHON`;
/// `TIDEGATE_PARQUET_TRACE` names another trace.
#[test]
fn readers_we_did_not_write_read_every_event_of_a_trace_from_parquet() {
    let Some(python) = std::env::var_os("TIDEGATE_PARQUET_PYTHON") else {
        eprintln!("SKIPPED: TIDEGATE_PARQUET_PYTHON is not set");
        assert!(std::env::var_os("CI").is_none(), "never skipped in CI");
        return;
    };
    let file =
        std::env::var_os("TIDEGATE_PARQUET_TRACE").map_or_else(|| trace("perfview/gcevents"), Into::into);
    let dir = tempfile::tempdir().unwrap();
    let (parquet, lines) = (dir.path().join("events.parquet"), dir.path().join("events.jsonl"));
    for (form, to) in [("parquet", &parquet), ("jsonl", &lines)] {
        finish(program().args(["convert", "--to", form, "-o"]).arg(to).arg(&file)).code(0);
    }
    let script = root().join("tests/parquet/check.py");
    let done = std::process::Command::new(python).arg(script).args([&parquet, &lines]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    let rows = format!("{} rows", std::fs::read_to_string(&lines).unwrap().lines().count());
    assert!(said.lines().count() == 2 && said.lines().all(|l| l.contains(&rows)), "{said}");
}

#[test]
fn an_output_that_cannot_be_made_is_said_with_code_73() {
    let file = trace(SMALL);
    finish(program().args(["convert", "--to", "csv", "-o", "/nowhere/x.csv"]).arg(file))
        .code(73)
        .says("cannot create /nowhere/x.csv");
}

#[test]
fn what_is_no_trace_is_said_in_one_line_with_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let whole = std::fs::read(trace(SMALL)).unwrap();
    let inspect = |path: &std::path::Path| finish(program().arg("inspect").arg(path));
    inspect(&file("empty.etl", b"")).code(65).says("the trace is empty");
    inspect(&file("text.etl", &[b'x'; 4096])).code(65).says("not an event trace log");
    inspect(&file("short.etl", &whole[..200])).code(65).says("cut inside its header");
    inspect(&dir.path().join("missing.etl")).code(66).says("No such file").says("help: check the path");
    inspect(dir.path()).code(66).says("is a folder");
}

#[test]
fn a_cut_trace_is_shown_as_far_as_it_goes_with_code_65() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.etl");
    let whole = std::fs::read(trace(SMALL)).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 3000]).unwrap();
    let ran = finish(program().arg("inspect").arg("--events").arg(&path)).code(65).says("damaged part");
    let events = ran.lines();
    let gaps = events.iter().filter(|e| e["provider"] == "Tidegate" && e["event"] == "Gap").count();
    assert!(gaps > 0, "the hole is an event too");
    assert!(events.len() > gaps);
    // What can be read is converted all the same.
    let to = dir.path().join("cut.jsonl");
    finish(program().args(["convert", "--to", "jsonl", "-o"]).arg(&to).arg(&path))
        .code(65)
        .says("damaged part");
    assert_eq!(std::fs::read_to_string(&to).unwrap().lines().count(), events.len());
}

#[test]
fn wrong_use_is_code_64_and_help_is_code_0() {
    run(["inspct", "x"]).code(64).says("a similar subcommand exists: 'inspect'");
    run(["inspect"]).code(64).says("<FILE>");
    run(["inspect", "x", "--events", "--stats"]).code(64).says("cannot be used with");
    run(["inspect", "x", "--etw-level", "loud"]).code(64).says("is no ETW level");
    assert!(run(["--help"]).code(0).stdout.contains("Exit codes"));
    assert!(run(["inspect", "--version"]).code(0).stdout.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let mut child = program()
        .args(["inspect", "--events"])
        .arg(trace("perfview/net.4.5.2.x64"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 16];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"{\"time\":\"2020-07");
    let done = child.wait_with_output().unwrap();
    assert_eq!((done.status.code(), String::from_utf8_lossy(&done.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn completions_and_manual_know_every_command() {
    let script = run(["completions", "bash"]).code(0).stdout;
    let dir = tempfile::tempdir().unwrap();
    finish(program().args(["man", "--out"]).arg(dir.path())).code(0);
    for command in ["inspect", "convert"] {
        assert!(script.contains(command));
        let page = std::fs::read_to_string(dir.path().join(format!("tidegate-{command}.1"))).unwrap();
        assert!(page.contains(".SH OPTIONS"));
    }
}

#[test]
fn logs_go_to_standard_error_and_a_wrong_filter_is_said() {
    let mut command = program();
    command.args(["inspect", "--json", "--log", "tidegate=loud"]).arg(trace(SMALL));
    let ran = finish(&mut command).code(0).says("no such level or filter");
    ran.json();
}
