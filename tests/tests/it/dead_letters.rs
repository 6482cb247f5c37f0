//! Dead letters: what one endpoint refused, sent again.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tidegate_proto::batch::{Batch, ExtKey, Head, NO_NAME};
use tidegate_proto::capture::{CaptureWriter, Compression};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::schema::{Decoder, FieldDef, Schema, SchemaParts};
use tidegate_proto::value::{Format, ValueRef};
use tidegate_proto::wire::{BlockBuilder, Unchanged};
use tidegate_sinks::events::recorder::{Recorder, Step};

use crate::support::{finish, program};

const TENANT: &str = "0123456789abcdef0123456789abcdef-01234567-89ab-cdef-0123-456789abcdef-0123";
/// TraceLogging's MICROSOFT_FIELDTAG_DROP_PII.
const DROP_PII: u32 = 0x0400_0000;

/// One event with all that is marked as personal: by type, by tag, by the gate.
fn capture(to: &Path) {
    let field = |(name, tags): &(&str, u32)| FieldDef { name: (*name).to_owned(), tags: *tags };
    let fields = [
        ("addr", 0),
        ("user", DROP_PII),
        ("peer", 0),
        ("owner", 0),
        ("mail", 0),
        ("n", 0),
        ("n", 0),
        ("at", 0),
        ("all", 0),
        ("inner", 0),
        ("v6", 0),
    ];
    let schema = Schema::new(SchemaParts {
        provider_name: "Contoso.App".into(),
        provider_guid: [3; 16],
        event_name: "Signed".into(),
        event_tags: 0x0008_0000,
        decoder: Decoder::TraceLogging,
        fields: fields.iter().map(field).collect(),
        ..SchemaParts::default()
    });
    let head = Head {
        time_ns: 1_700_000_000_123_456_700,
        telemetry_level: Some(TelemetryLevel::Basic),
        priv_tags: 2,
        sample_ppm: 2500,
        ..Head::default()
    };
    let mut events = Batch::new();
    let mut e = events.begin(&schema, head);
    e.value(0, Format::Default, ValueRef::Ipv4([10, 0, 0, 1]));
    e.value(1, Format::Default, ValueRef::Str("alice"));
    e.value(2, Format::Default, ValueRef::SockAddr(&[2, 0, 0, 80, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]));
    e.value(3, Format::Default, ValueRef::Sid(&[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0]));
    e.value(4, Format::Default, ValueRef::Str("<email#1a2b>"));
    e.scrubbed(3 << 8 | 3);
    e.value(5, Format::Hex, ValueRef::U32(31));
    e.value(6, Format::Default, ValueRef::U64(7));
    e.value(7, Format::Default, ValueRef::FileTime(133_444_736_000_000_000));
    e.begin_array(8);
    e.value(NO_NAME, Format::Default, ValueRef::Ipv4([10, 0, 0, 3]));
    e.end();
    e.begin_struct(9);
    e.value(10, Format::Default, ValueRef::Ipv6([1; 16]));
    e.end();
    e.ext(ExtKey::Sid, ValueRef::Str("<sid#5>"));
    e.ext_scrubbed(3 << 8 | 6);
    e.finish();
    let mut block = BlockBuilder::new();
    block.push(events.get(0).unwrap(), Some(TelemetryLevel::Basic), &Unchanged);
    let mut writer = CaptureWriter::new(Vec::new(), Compression::None).unwrap();
    writer.push(&block.finish(), 1).unwrap();
    fs::write(to, writer.finish().unwrap()).unwrap();
}

/// Replays a file to the recorder; the line that came there, without the id.
fn replay(file: &Path, far: &Recorder, dead: &Path) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("tidegate.toml");
    fs::write(
        &config,
        format!(
            "[telemetry]\nlevel = \"full\"\nscrub = false\n[ring]\npath = {:?}\n[health]\nevents = false\n\
             [sinks.far]\ntype = \"events\"\nurl = {:?}\ntenant = \"env:TIDEGATE_TENANT\"\ndead_letters = {dead:?}\n",
            dir.path().join("ring"),
            far.url(),
        ),
    )
    .unwrap();
    let mut command = program();
    command.arg("replay").arg(file).arg("-c").arg(&config).env("TIDEGATE_TENANT", TENANT);
    finish(&mut command).code(0);
    let requests = far.requests();
    let [request] = &requests[..] else { panic!("{} requests", requests.len()) };
    let mut line = request.events[0].clone();
    for part in ["sdk", "utc"] {
        line["ext"][part].as_object_mut().unwrap().retain(|name, _| name != "epoch" && name != "seq");
    }
    line
}

#[test]
fn a_dead_letter_that_is_replayed_is_the_same_line_with_its_privacy_marks() {
    let dir = tempfile::tempdir().unwrap();
    let (file, dead) = (dir.path().join("in.tgcap"), dir.path().join("dead.jsonl"));
    capture(&file);
    let (refuses, takes) = (Recorder::start(&[TENANT]).unwrap(), Recorder::start(&[TENANT]).unwrap());
    refuses.script([Step::Refuse { places: vec![0], reason: "schema".into() }]);
    let refused = replay(&file, &refuses, &dead);
    assert_eq!(refuses.seqs().len(), 0);
    let letter = fs::read_to_string(&dead).unwrap();
    assert!(letter.contains("\"deadLetter\":{\"reason\":"), "{letter}");

    let taken = replay(&dead, &takes, &dir.path().join("none.jsonl"));
    assert_eq!(taken, refused);
    let marks = &taken["ext"]["metadata"]["f"];
    // what a value's type leaves of its number is the kind of personal data
    let marked = |place: &Value| place["t"].as_u64().is_some_and(|t| t >> 5 != 0);
    for personal in ["addr", "user", "peer", "owner", "mail", "all"] {
        assert!(marked(&marks[personal]), "{personal}: {marks}");
    }
    assert!(marked(&marks["inner"]["f"]["v6"]), "{marks}");
    assert!(marked(&marks["baseData"]["f"]["ext"]["f"]["sid"]), "{marks}");
    assert_eq!(taken["popSample"], 0.25);
}

#[test]
fn a_level_that_is_lowered_while_the_collector_rests_takes_dead_letters_above_it_along() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("ring")).unwrap();
    fs::create_dir_all(dir.path().join("dead")).unwrap();
    let config = dir.path().join("tidegate.toml");
    let (ring, out) = (dir.path().join("ring"), dir.path().join("out"));
    let text = format!(
        "[ring]\npath = {ring:?}\nsize = \"4MiB\"\n[telemetry]\nlevel = \"Full\"\npolicy_file = {:?}\n\
         [sinks.out]\ntype = \"directory\"\npath = {out:?}\n",
        dir.path().join("policy.toml"),
    );
    fs::write(&config, text).unwrap();
    let line = |level: &str| {
        format!(
            "{{\"time\":\"2026-01-01T00:00:00Z\",\"provider\":\"P\",\"event\":\"E\",\"telemetryLevel\":\"{level}\",\"fields\":{{}}}}\n"
        )
    };
    let dead = dir.path().join("dead/out.jsonl");
    fs::write(&dead, line("Basic") + &line("Enhanced") + &line("Full")).unwrap();
    finish(program().args(["level", "set", "Basic", "-c"]).arg(&config)).code(0);
    assert_eq!(fs::read_to_string(&dead).unwrap(), line("Basic"));
}
