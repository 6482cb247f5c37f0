//! Decoded events against the baselines of TraceEvent: counts, and every value that both show.

use crate::data::{oracle, trace};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use tidegate_etl::{EtlFile, EventReader, PayloadDecoder};
use tidegate_proto::batch::Batch;
use tidegate_proto::json;
use tidegate_proto::value::ValueRef;

/// Calls `each` with all events of a trace.
fn for_each(name: &str, mut each: impl FnMut(tidegate_proto::batch::EventRef<'_>)) {
    let file = EtlFile::open(trace(&format!("perfview/{name}"))).unwrap();
    let mut reader = EventReader::new(&file, PayloadDecoder::new(name)).unwrap();
    let mut batch = Batch::new();
    loop {
        let more = reader.next_batch(&mut batch, 4096).unwrap();
        batch.iter().for_each(&mut each);
        batch.clear();
        if !more {
            return;
        }
    }
}

#[test]
fn counts_by_raw_identity_are_those_of_the_table() {
    let mut checked = 0;
    for name in ["primitive-types", "gcevents", "net.4.5.2.x64"] {
        let file = EtlFile::open(trace(&format!("perfview/{name}"))).unwrap();
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for kind in file.summary().unwrap().kinds {
            let (n, kind) = (kind.records, kind.kind.unwrap());
            let guid = tidegate_proto::guid::format(&kind.provider);
            let keys = match kind.family {
                tidegate_etl::Family::Event if kind.name.is_empty() => vec![format!("{guid} id {}", kind.id)],
                tidegate_etl::Family::Event => vec![format!("{guid} tl:{}", kind.name)],
                tidegate_etl::Family::Classic => vec![format!("classic {guid} type {}", kind.opcode)],
                _ => vec![format!("{guid} type {}", kind.opcode)],
            };
            for key in keys {
                *counts.entry(key).or_default() += n;
            }
        }
        for line in oracle("baseline-counts.tsv").lines().skip(1) {
            let parts: Vec<&str> = line.split('\t').collect();
            if parts[0] == name && !parts[3].starts_with("kernel") && !parts[3].is_empty() {
                let wanted: u64 = parts[4].parse().unwrap();
                assert_eq!(counts.get(parts[3]), Some(&wanted), "{line}");
                checked += 1;
            }
        }
    }
    assert!(checked > 80, "{checked}");
}

#[test]
fn kernel_events_have_the_names_of_traceevent() {
    let mut counts: HashMap<String, u64> = HashMap::new();
    for_each("net.4.5.2.x64", |e| {
        *counts.entry(format!("{}/{}", e.schema().provider_name, e.schema().event_name)).or_default() += 1;
    });
    let mut checked = 0;
    for line in oracle("baseline-counts.tsv").lines() {
        let parts: Vec<&str> = line.split('\t').collect();
        let kernel = ["Windows Kernel/", "MSNT_SystemTrace/", "KernelTraceControl/"];
        if parts[0] != "net.4.5.2.x64" || !kernel.iter().any(|k| parts[1].starts_with(k)) {
            continue;
        }
        let name = match parts[1].replace("MSNT_SystemTrace", "Windows Kernel").as_str() {
            "Windows Kernel/EventTrace" => "Windows Kernel/EventTrace/Header".to_owned(),
            // What TraceEvent has no name for.
            other if other.contains("Opcode(") => continue,
            other => other.to_owned(),
        };
        // The table's count by raw identity: TraceEvent leaves some samples out.
        assert_eq!(counts.get(&name), Some(&parts[4].parse().unwrap()), "{line}");
        checked += 1;
    }
    assert!(checked > 40, "{checked}");
}

#[test]
fn the_system_configuration_is_decoded_to_the_last_byte() {
    let mut checked = HashMap::new();
    for_each("net.4.5.2.x64", |e| {
        let name = e.schema().event_name.clone();
        if name.starts_with("SystemConfig") || name.starts_with("SysConfig") {
            assert!(e.raw().is_empty() && e.fields().next().is_some(), "{e:?}");
            let mut text = Vec::new();
            json::write_fields(&mut text, e.fields());
            let fields: Value = serde_json::from_slice(&text).unwrap();
            *checked.entry(name.clone()).or_default() += 1;
            match name.as_str() {
                "SystemConfig/CPU" => {
                    assert_eq!(fields["HighestUserAddress"], "0x7fffffeffff");
                    assert_eq!(
                        (&fields["ProcessorArchitecture"], &fields["NxEnabled"]),
                        (&9.into(), &1.into())
                    );
                }
                "SystemConfig/DPI" => assert_eq!(fields["MachineDpi"], 96),
                "SystemConfig/OpticalMedia" => {
                    assert_eq!(
                        (&fields["BytesPerSector"], &fields["FileSystemName"]),
                        (&2048.into(), &"UDF".into())
                    );
                    assert_eq!(fields["ManufacturerName"], "Msft    ");
                }
                "SystemConfig/PnP" if fields["DeviceId"] == "ACPI\\PNP0501\\1" => {
                    assert_eq!(fields["UpperFilters"], serde_json::json!(["serenum"]));
                    assert_eq!(fields["LowerFilters"], serde_json::json!([]));
                }
                _ => {}
            }
        }
    });
    assert_eq!((checked["SystemConfig/PnP"], checked["SystemConfig/CPU"]), (78, 1), "{checked:?}");
}

#[test]
fn the_stacks_of_the_net_runtime_are_whole() {
    let mut stacks = 0;
    for_each("net.4.5.2.x64", |e| {
        if e.schema().event_name != "CLRStack/CLRStackWalk" {
            return;
        }
        let mut frames = None;
        for field in e.fields() {
            match (field.name, field.value) {
                (Some("FrameCount"), ValueRef::U32(n)) => frames = Some(n as usize),
                (Some("Stack"), ValueRef::Array(stack)) => assert_eq!(Some(stack.count()), frames),
                _ => {}
            }
        }
        assert!(e.raw().is_empty() && frames.is_some(), "{e:?}");
        stacks += 1;
    });
    assert_eq!(stacks, 14_983);
}

/// A value as the baseline writes it; `None` for what it writes in ways of its own.
fn plain(value: ValueRef<'_>) -> Option<String> {
    let mut text = Vec::new();
    match value {
        ValueRef::Pointer(n) => return Some(n.to_string()),
        ValueRef::Enum { value, .. } => return Some(value.to_string()),
        ValueRef::Bytes(_) | ValueRef::Array(_) | ValueRef::Struct(_) | ValueRef::FileTime(_) => return None,
        _ => json::write_value(&mut text, value, tidegate_proto::value::Format::Default),
    }
    match serde_json::from_slice(&text).unwrap() {
        Value::String(s) => Some(s),
        other => Some(other.to_string()),
    }
}

fn number(text: &str) -> Option<i128> {
    let text = text.replace(',', "");
    match text.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn agree(ours: &str, theirs: &str) -> bool {
    if let (Some(a), Some(b)) = (number(ours), number(theirs)) {
        // It shows unsigned numbers signed.
        return a == b || a - b == 1 << 32 || a - b == 1 << 16 || a - b == 1 << 64;
    }
    match theirs.strip_suffix("...") {
        Some(start) => ours.starts_with(start),
        None => ours.trim() == theirs.trim() || ours.eq_ignore_ascii_case(theirs),
    }
}

#[test]
fn every_value_that_both_show_is_the_same() {
    // Values that TraceEvent computes, masks or takes from elsewhere.
    let own = [
        "filename",
        "flags",
        "irpflags",
        "version",
        "exitstatus",
        "processname",
        "system_time_type",
        "processid",
        "createoptions",
    ];
    let mut compared = 0;
    let mut wrong = Vec::new();
    for name in ["primitive-types", "gcevents", "net.4.5.2.x64"] {
        let mut start = None;
        type Shown = (String, HashMap<String, String>);
        let mut events: HashMap<(i64, u16), Vec<Shown>> = HashMap::new();
        for_each(name, |e| {
            let start = *start.get_or_insert(e.head().time_ns);
            let fields = e.fields();
            let values: HashMap<String, String> =
                fields.filter_map(|f| Some((f.name?.to_ascii_lowercase(), plain(f.value)?))).collect();
            let event = e.schema().event_name.clone();
            events.entry((e.head().time_ns - start, e.head().cpu)).or_default().push((event, values));
        });
        let mut keys: Vec<(i64, u16)> = events.keys().copied().collect();
        keys.sort_unstable();
        for line in oracle(&format!("baselines/{name}.baseline.txt")).lines() {
            let Some((ms, rest)) = line.strip_prefix("EVENT ").and_then(|l| l.split_once(": ")) else {
                continue;
            };
            let us = (ms.replace(',', "").parse::<f64>().unwrap() * 1000.0).round() as i64;
            let (title, values) = rest.split_once(" PID=").unwrap();
            let pairs: Vec<(String, &str)> = values
                .split("; ")
                .filter_map(|p| p.split_once('='))
                .map(|(k, v)| (k.to_ascii_lowercase(), v))
                .skip_while(|(k, _)| k != "datalen")
                .skip(1)
                .collect();
            let cpu: u16 =
                values.split("ProceNum=").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
            let from = keys.partition_point(|k| k.0 < us * 1000 - 1000);
            let near = keys[from..].iter().take_while(|k| k.0 <= us * 1000 + 1000).filter(|k| k.1 == cpu);
            let candidates: Vec<&Shown> = near.flat_map(|k| &events[k]).collect();
            assert!(!candidates.is_empty(), "{line}");
            // Of several at one time, the one that agrees most; its last name part decides first.
            let last = title.rsplit('/').next().unwrap();
            let score = |c: &&&Shown| {
                let named = usize::from(c.0.rsplit('/').next() == Some(last)) * 100;
                let same = |(k, v): &&(String, &str)| c.1.get(k).is_some_and(|o| agree(o, v));
                named + pairs.iter().filter(same).count()
            };
            let best = candidates.iter().max_by_key(score).unwrap();
            for (key, theirs) in &pairs {
                if let Some(ours) = best.1.get(key) {
                    // It names numbers by enums of its own and cuts long ones.
                    let named = number(ours).is_some() && number(theirs).is_none();
                    if own.contains(&key.as_str()) || named {
                        continue;
                    }
                    compared += 1;
                    if !agree(ours, theirs) {
                        wrong.push(format!("{title} {key}: {ours} | {theirs}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{compared} compared\n{}", wrong.join("\n"));
    assert!(compared > 1800, "{compared}");
}
