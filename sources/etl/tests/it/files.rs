//! Whole traces: header, counts by raw identity, time order, clocks.

use crate::data::{oracle, trace, traces};
use serde_json::Value;
use std::collections::BTreeMap;
use tidegate_etl::{EtlError, EtlFile, Identity, Record, RecordKind, RecordReader};
use tidegate_proto::{guid, time};

const GROUPS: [(u8, &str); 25] = [
    (0, "EventTrace"),
    (1, "DiskIo"),
    (2, "PageFault"),
    (3, "Process"),
    (4, "FileIo"),
    (5, "Thread"),
    (6, "TcpIp"),
    (8, "UdpIp"),
    (9, "Registry"),
    (11, "SystemConfig"),
    (15, "PerfInfo"),
    (16, "Heap"),
    (17, "Object"),
    (18, "Power"),
    (20, "Image"),
    (21, "Dpc"),
    (24, "StackWalk"),
    (26, "ALPC"),
    (27, "SplitIo"),
    (28, "ThreadPool"),
    (10, "DbgPrint"),
    (12, "Group12"),
    (13, "Group13"),
    (14, "Group14"),
    (7, "Group7"),
];

/// The names that the oracle gives a record: header type, provider or class, event.
fn names(r: &Record<'_>) -> (String, Option<String>, Option<String>, Option<String>) {
    let kind = match r.kind {
        RecordKind::System32 => "SYSTEM32",
        RecordKind::System64 => "SYSTEM64",
        RecordKind::PerfInfo32 => "PERFINFO32",
        RecordKind::PerfInfo64 => "PERFINFO64",
        RecordKind::Event32 => "EVENT32",
        RecordKind::Event64 => "EVENT64",
        RecordKind::Full32 => "FULL32",
        RecordKind::Full64 => "FULL64",
        RecordKind::Message => "MESSAGE",
        other => panic!("no trace has a record of kind {other:?}"),
    };
    let id = guid::format(&r.provider);
    let (provider, kernel, event) = match r.identity {
        Identity::Event => {
            let event = format!("{id}/{}/v{}/op{}", r.id, r.version, r.opcode);
            (Some(id), None, Some(event))
        }
        Identity::Classic => {
            let event = format!("classic:{id}/{}/v{}/op0", r.opcode, r.version);
            (Some(format!("classic:{id}")), None, Some(event))
        }
        Identity::Message { .. } => (Some(format!("wpp:{id}")), None, None),
        Identity::Kernel { group } => {
            let group = GROUPS.iter().find(|g| g.0 == group).map(|g| g.1).unwrap();
            (None, Some(format!("{group}/{}/v{}", r.opcode, r.version)), None)
        }
        Identity::Other => panic!("no trace has such a record"),
    };
    (kind.to_owned(), provider, kernel, event)
}

fn scan(name: &str) -> Value {
    serde_json::from_str(&oracle(&format!("scan/{}.json", name.replace('/', "__")))).unwrap()
}

fn counts(v: &Value) -> BTreeMap<String, u64> {
    v.as_object().unwrap().iter().map(|(k, n)| (k.clone(), n.as_u64().unwrap())).collect()
}

/// Records of all traces: the sum over the oracle's scans.
const RECORDS: u64 = 199_154;

#[test]
fn every_record_of_every_trace_is_found() {
    let mut total = 0;
    for (name, bytes) in traces() {
        let scan = scan(&name);
        let file = EtlFile::open(bytes).unwrap();
        let mut found: [BTreeMap<String, u64>; 5] = Default::default();
        let walk = file
            .walk(|r| {
                let (kind, provider, kernel, event) = names(r);
                for (map, key) in found.iter_mut().zip([Some(kind), provider, kernel, event]) {
                    if let Some(key) = key {
                        *map.entry(key).or_default() += 1;
                    }
                }
                if matches!(r.identity, Identity::Event) {
                    for item in r.ext {
                        *found[4].entry(item.kind.to_string()).or_default() += 1;
                    }
                }
            })
            .unwrap();
        total += walk.records;
        assert_eq!(walk.problems, [], "{name}");
        assert_eq!(walk.records, scan["events"], "{name}");
        assert_eq!(file.buffers() as u64, scan["nbuf"], "{name}");
        let [kinds, providers, kernel, events, ext] = found;
        assert_eq!(kinds, counts(&scan["header_types"]), "{name}");
        assert_eq!(providers, counts(&scan["providers"]), "{name}");
        assert_eq!(kernel, counts(&scan["kernel"]), "{name}");
        for (key, n) in counts(&scan["ev"]) {
            assert_eq!(events.get(&key), Some(&n), "{name} {key}");
        }
        for (key, n) in counts(&scan["ext"]).iter().filter(|(k, _)| k.parse::<u16>().is_ok()) {
            assert_eq!(ext.get(key), Some(n), "{name} item {key}");
        }
    }
    assert_eq!(total, RECORDS);
}

#[test]
fn headers_say_what_is_known() {
    for (name, bytes) in traces() {
        let known = &scan(&name)["hdr"];
        let file = EtlFile::open(bytes).unwrap();
        let h = file.header();
        let text = |filetime| {
            let ns = time::filetime_to_unix_ns(filetime) / 1000 * 1000;
            let text = time::format_rfc3339(ns);
            format!("{}Z", &text[..26])
        };
        assert_eq!(u64::from(h.buffer_size), known["buffer_size"], "{name}");
        assert_eq!(format!("{}.{}", h.os.0, h.os.1), known["os"], "{name}");
        assert_eq!(u64::from(h.os_build), known["provider_version"], "{name}");
        assert_eq!(u64::from(h.processors), known["ncpu"], "{name}");
        assert_eq!(format!("{:#x}", h.mode), known["mode"], "{name}");
        assert_eq!(u64::from(h.buffers_written), known["buffers_written"], "{name}");
        assert_eq!(u64::from(h.pointer_size), known["ptr"], "{name}");
        assert_eq!(u64::from(h.events_lost), known["events_lost"], "{name}");
        assert_eq!(u64::from(h.buffers_lost), known["buffers_lost"], "{name}");
        assert_eq!(u64::from(h.cpu_mhz), known["mhz"], "{name}");
        assert_eq!(h.perf_freq, known["freq"], "{name}");
        assert_eq!(u64::from(h.clock.kind), known["clock"], "{name}");
        assert_eq!(i64::from(h.utc_bias_minutes), known["tzbias"], "{name}");
        assert_eq!(text(h.start_time), known["start"], "{name}");
        if h.closed() {
            assert_eq!(text(h.end_time), known["end"], "{name}");
        }
        let names: Vec<&str> =
            known["names"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
        assert_eq!([h.session_name.as_str(), &h.file_name], names[..], "{name}");
    }
}

#[test]
fn the_reader_returns_every_record_in_time_order() {
    let mut checked = 0;
    for (name, bytes) in traces() {
        let file = EtlFile::open(bytes).unwrap();
        let mut reader = RecordReader::new(&file);
        let (mut last, mut n) = (0, 0_u64);
        let mut per_kind: BTreeMap<String, u64> = BTreeMap::new();
        while let Some(record) = reader.next_record().unwrap() {
            let time = record.time.unwrap();
            assert!(time >= last, "{name}: {time} after {last}");
            last = time;
            n += 1;
            *per_kind.entry(names(&record).0).or_default() += 1;
        }
        assert_eq!(reader.problem_count(), 0, "{name}");
        assert_eq!(n, scan(&name)["events"], "{name}");
        assert_eq!(per_kind, counts(&scan(&name)["header_types"]), "{name}");
        checked += n;
    }
    assert_eq!(checked, RECORDS);
}

/// `EVENT ms: …; ProceNum=n; DataLen=n` lines of a baseline, as (microseconds, CPU, length).
fn baseline(name: &str) -> Vec<(i64, u16, usize)> {
    let text = oracle(&format!("baselines/{name}.baseline.txt"));
    let mut lines = Vec::new();
    for line in text.lines() {
        let Some((ms, rest)) = line.strip_prefix("EVENT ").and_then(|l| l.split_once(": ")) else { continue };
        let part =
            |key: &str| rest.split_once(key).map(|(_, r)| r.split(';').next().unwrap().replace(',', ""));
        let us = (ms.replace(',', "").parse::<f64>().unwrap() * 1000.0).round() as i64;
        let cpu = part("ProceNum=").unwrap().parse().unwrap();
        let len = part("DataLen=").unwrap().parse().unwrap();
        lines.push((us, cpu, len));
    }
    lines
}

#[test]
fn baseline_events_have_the_same_time_cpu_and_length() {
    for (name, lines) in [("gcevents", 0), ("primitive-types", 0), ("net.4.5.2.x64", 0)] {
        let file = EtlFile::open(trace(&format!("perfview/{name}"))).unwrap();
        let clock = file.header().clock;
        let mut reader = RecordReader::new(&file);
        let mut start = None;
        let mut have: BTreeMap<(u16, usize), Vec<i64>> = BTreeMap::new();
        while let Some(r) = reader.next_record().unwrap() {
            let ns = clock.unix_ns(r.time.unwrap());
            let start = *start.get_or_insert(ns);
            have.entry((r.cpu, r.data.len())).or_default().push(ns - start);
        }
        let wanted = baseline(name);
        assert!(wanted.len() > lines);
        for (us, cpu, len) in wanted {
            let times = have.get(&(cpu, len)).unwrap_or_else(|| panic!("{name}: {us} {cpu} {len}"));
            let near = times.iter().any(|ns| (ns - us * 1000).abs() <= 1_000);
            assert!(near, "{name}: nothing of {len} bytes on CPU {cpu} at {us} us");
        }
    }
}

#[test]
fn what_is_no_trace_is_refused_with_its_place() {
    assert!(matches!(EtlFile::open(&b""[..]), Err(EtlError::Empty)));
    assert!(matches!(EtlFile::open(&b"MZ"[..]), Err(EtlError::TooShort { size: 2, needed: 72 })));
    assert!(matches!(EtlFile::open(vec![0; 4096]), Err(EtlError::NotATrace { offset: 0, .. })));
    assert!(matches!(EtlFile::open(vec![0x41; 4096]), Err(EtlError::NotATrace { offset: 72, .. })));
    let text = EtlFile::open(vec![0x41; 4096]).unwrap_err().to_string();
    assert_eq!(text, "not an event trace log: no header record at offset 72");
}
