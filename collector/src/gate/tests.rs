//! The gate's promises, each on its own.

use std::sync::Arc;

use tidegate_proto::batch::{Batch, Head, NO_NAME};
use tidegate_proto::level::{DropReason, TelemetryLevel};
use tidegate_proto::schema::{Decoder, FieldDef, Schema, SchemaParts};
use tidegate_proto::value::{Format, ValueRef};

use super::*;
use TelemetryLevel::{Basic, Enhanced, Full, Security};

const WINDOWS: &str = "4f50731a-89cf-4782-b3e0-dce8c90476ba";
const CORE: &str = "c7de053a-0c2e-4a44-91a2-5222ec2ecdf1";
const CRITICAL: u64 = 1 << 47;
const MEASURES: u64 = 1 << 46;
const TELEMETRY: u64 = 1 << 45;

fn group(text: &str) -> Option<[u8; 16]> {
    tidegate_proto::guid::parse(text)
}

fn schema(provider: &str, event: &str, fields: &[(&str, u32)]) -> Arc<Schema> {
    Schema::new(parts(provider, event, fields))
}

fn parts(provider: &str, event: &str, fields: &[(&str, u32)]) -> SchemaParts {
    SchemaParts {
        provider_name: provider.to_owned(),
        event_name: event.to_owned(),
        fields: fields.iter().map(|(n, tags)| FieldDef { name: (*n).to_owned(), tags: *tags }).collect(),
        ..SchemaParts::default()
    }
}

/// The outcome as a level or a reason.
fn judge(
    gate: &mut Gate,
    schema: &Arc<Schema>,
    head: Head,
    at: impl Into<Permit>,
) -> Result<TelemetryLevel, DropReason> {
    let mut batch = Batch::new();
    batch.begin(schema, head).finish();
    let event = batch.iter().next().unwrap();
    match gate.clear(event, at) {
        Verdict::Pass(c) => Ok(c.level()),
        Verdict::Drop(why) => Err(why),
    }
}

fn keyword(keyword: u64) -> Head {
    Head { keyword, ..Head::default() }
}

fn gate() -> Gate {
    Gate::new(Rules::shipped().unwrap())
}

fn with(text: &str) -> Gate {
    Gate::new(Rules::builder().unwrap().catalogue("own.toml", text).unwrap().build().unwrap())
}

/// The changes to one text field of a given name.
fn scrubbed(gate: &mut Gate, name: &str, text: &str) -> Option<String> {
    let s = schema("P", "E", &[(name, 0)]);
    let mut batch = Batch::new();
    let mut e = batch.begin(&s, Head::default());
    e.value(0, Format::Default, ValueRef::Str(text));
    e.finish();
    let event = batch.iter().next().unwrap();
    match gate.clear(event, Full) {
        Verdict::Drop(why) => Some(format!("EVENT {why}")),
        Verdict::Pass(c) => c.edits().at(Place::Field(0)).map(|c| match &c.edit {
            Edit::Drop => "FIELD".to_owned(),
            Edit::Replace(s) => s.clone(),
        }),
    }
}

#[test]
fn keywords_count_within_their_group_only() {
    let mut g = gate();
    let ms =
        Schema::new(SchemaParts { group_guid: group(WINDOWS), ..parts("Microsoft.Windows.X", "E", &[]) });
    assert_eq!(judge(&mut g, &ms, keyword(CRITICAL), Full), Ok(Basic));
    assert_eq!(judge(&mut g, &ms, keyword(MEASURES), Full), Ok(Enhanced));
    assert_eq!(judge(&mut g, &ms, keyword(TELEMETRY), Full), Ok(Full));
    assert_eq!(judge(&mut g, &ms, keyword(CRITICAL | TELEMETRY), Full), Ok(Full), "of several the widest");
    assert_eq!(judge(&mut g, &ms, keyword(0), Full), Ok(Full));
    let other = schema("Microsoft.Windows.X", "E", &[]);
    assert_eq!(judge(&mut g, &other, keyword(CRITICAL), Full), Ok(Full), "no group, no meaning");
    let core =
        Schema::new(SchemaParts { group_guid: group(CORE), event_tags: 0x8_0000, ..parts("M", "E", &[]) });
    assert_eq!(judge(&mut g, &core, keyword(TELEMETRY), Full), Ok(Basic));
}

#[test]
fn an_unknown_event_is_full_unless_the_operator_says_otherwise() {
    let s = schema("Nobody", "Knows", &[]);
    assert_eq!(judge(&mut gate(), &s, Head::default(), Full), Ok(Full));
    assert_eq!(judge(&mut gate(), &s, Head::default(), Enhanced), Err(DropReason::Level));
    let mut low = Gate::new(Rules::builder().unwrap().default_level(Basic).build().unwrap());
    assert_eq!(judge(&mut low, &s, Head::default(), Basic), Ok(Basic));
    let mut file = with("version = 1\ndefault_level = \"Enhanced\"");
    assert_eq!(judge(&mut file, &s, Head::default(), Full), Ok(Enhanced));
}

#[test]
fn an_events_own_level_raises_and_lowers_only_where_trusted() {
    let s = schema("Contoso.StorageResource", "DriveInventory", &[]);
    let own = |l| Head { telemetry_level: Some(l), ..Head::default() };
    let mut g = gate();
    assert_eq!(judge(&mut g, &s, Head::default(), Full), Ok(Basic));
    assert_eq!(judge(&mut g, &s, own(Full), Full), Ok(Full));
    assert_eq!(judge(&mut g, &s, own(Security), Full), Ok(Basic));
    let mut trusting = Gate::new(Rules::builder().unwrap().trust_event_level(true).build().unwrap());
    assert_eq!(judge(&mut trusting, &s, own(Security), Full), Ok(Security));
}

#[test]
fn only_our_own_decoder_makes_our_own_events() {
    let mut g = gate();
    let own = Schema::new(SchemaParts { decoder: Decoder::Own, ..parts("Tidegate", "SettingsChanged", &[]) });
    assert_eq!(judge(&mut g, &own, Head::default(), Security), Ok(Security));
    let json =
        Schema::new(SchemaParts { decoder: Decoder::Json, ..parts("Tidegate", "SettingsChanged", &[]) });
    assert_eq!(judge(&mut g, &json, Head::default(), Security), Err(DropReason::Level));
}

#[test]
fn families_ids_members_and_drop_rules_decide() {
    let mut g = gate();
    for (provider, event, level) in [
        ("Contoso-NetworkResource", "AdapterSpeed", Basic),
        ("Contoso-NetworkResource", "AdapterUsage", Enhanced),
        ("Storage Resource Provider", "DiskAdded", Basic),
        ("X.MonitoringResource", "CriticalAlertCount", Basic),
        ("X.UpdateResource", "UpdateDuration", Enhanced),
        ("X.UpdateResource", "Other", Full),
    ] {
        assert_eq!(judge(&mut g, &schema(provider, event, &[]), Head::default(), Full), Ok(level), "{event}");
    }
    let mut g = with(
        "version = 1\n[[member]]\nprovider = \"Old*\"\ngroup = \"windows-telemetry\"\n\
         [[rule]]\nname = \"noise\"\nprovider = \"Noisy\"\nid = [7, 9]\ndrop = true\n\
         [[rule]]\nname = \"rest\"\nprovider = \"Noisy\"\nlevel = 1",
    );
    assert_eq!(judge(&mut g, &schema("OldOne", "", &[]), keyword(MEASURES), Full), Ok(Enhanced));
    let noisy = schema("Noisy", "", &[]);
    assert_eq!(judge(&mut g, &noisy, Head { id: 9, ..Head::default() }, Full), Err(DropReason::Rule));
    assert_eq!(judge(&mut g, &noisy, Head { id: 8, ..Head::default() }, Full), Ok(Basic));
}

#[test]
fn privacy_tags_raise_the_level() {
    let s = schema("Contoso.StorageResource", "DriveInventory", &[("PartA_PrivTags", 0)]);
    let mut g = gate();
    assert_eq!(judge(&mut g, &s, Head { priv_tags: 2, ..Head::default() }, Full), Ok(Full));
    let mut batch = Batch::new();
    let mut e = batch.begin(&s, Head::default());
    e.value(0, Format::Default, ValueRef::U64(0x200_0000));
    e.finish();
    let event = batch.iter().next().unwrap();
    assert!(
        matches!(g.clear(event, Full), Verdict::Pass(c) if c.level() == Enhanced),
        "from the payload too"
    );
}

#[test]
fn disabled_passes_nothing_and_switches_go_together() {
    let mut g = gate();
    let own = Schema::new(SchemaParts { decoder: Decoder::Own, ..parts("Tidegate", "Settings", &[]) });
    let off = Permit { level: Full, enabled: false };
    assert_eq!(judge(&mut g, &own, Head::default(), off), Err(DropReason::Disabled));
    assert_eq!(g.rules().switched_off_by(&["telemetry"]).unwrap(), ["telemetry", "resources", "sql"]);
    let sql = schema("MSSQLSERVER", "Login", &[]);
    assert_eq!(judge(&mut g, &sql, Head::default(), Full), Ok(Full));
    g.set_off(&["sql"]).unwrap();
    assert_eq!(judge(&mut g, &sql, Head::default(), Full), Err(DropReason::Disabled));
    assert_eq!(judge(&mut g, &schema("Other", "", &[]), Head::default(), Full), Ok(Full));
    g.set_off(&["telemetry"]).unwrap();
    assert_eq!(judge(&mut g, &schema("Other", "", &[]), Head::default(), Full), Err(DropReason::Disabled));
    assert!(g.set_off(&["sqk"]).unwrap_err().to_string().contains("known are telemetry"));
}

/// xorshift: enough for picking.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }
}

#[test]
fn nothing_above_the_level_in_force_passes() {
    let seed = 0x7164_e6a7_e5ee_d001_u64;
    println!("seed {seed:#x}");
    let mut dice = Dice(seed);
    let providers = ["Microsoft.Windows.X", "X.StorageResource", "MSSQLSERVER", "Tidegate", "Nobody", ""];
    let events = ["DriveInventory", "Usage", "SettingsX", "Trace", ""];
    let mut schemas = Vec::new();
    // more kinds than the cache holds
    for _ in 0..Gate::CACHED * 2 {
        let group_guid = [None, group(WINDOWS), group(CORE)][dice.roll(3) as usize];
        schemas.push(Schema::new(SchemaParts {
            group_guid,
            event_tags: if dice.roll(2) == 0 { 0x8_0000 } else { 0 },
            decoder: Decoder::from_u32(dice.roll(10) as u32),
            ..parts(providers[dice.roll(6) as usize], events[dice.roll(5) as usize], &[])
        }));
    }
    let mut g = gate();
    let (mut passed, mut dropped) = (0, 0);
    for _ in 0..100_000 {
        let s = &schemas[dice.roll(schemas.len() as u64) as usize];
        let head = Head {
            keyword: dice.roll(16) << 44,
            id: dice.roll(5) as u16,
            priv_tags: if dice.roll(4) == 0 { 1 << dice.roll(40) } else { 0 },
            telemetry_level: TelemetryLevel::from_u8(dice.roll(6) as u8),
            ..Head::default()
        };
        let permit =
            Permit { level: TelemetryLevel::from_u8(dice.roll(4) as u8).unwrap(), enabled: dice.roll(8) > 0 };
        let mut batch = Batch::new();
        batch.begin(s, head).finish();
        let event = batch.iter().next().unwrap();
        // the slow path, which has no cache, must agree
        let expected = g.rules().explain(event);
        match g.clear(event, permit) {
            Verdict::Pass(c) => {
                assert!(permit.enabled && c.level() <= permit.level);
                assert!(
                    head.telemetry_level.is_none_or(|own| own <= permit.level),
                    "own level may not be lowered"
                );
                assert_eq!(Some(c.level()), expected.level);
                passed += 1;
            }
            Verdict::Drop(DropReason::Level) => {
                assert!(!expected.passes_at(permit.level));
                dropped += 1;
            }
            Verdict::Drop(why) => assert_eq!((why, permit.enabled), (DropReason::Disabled, false)),
        }
    }
    assert!(passed > 5_000 && dropped > 5_000, "{passed} {dropped}");
}

#[test]
fn explain_names_the_deciding_rule() {
    let rules = Rules::shipped().unwrap();
    let key = EventKey {
        provider: "Microsoft.Windows.X".to_owned(),
        group: group(WINDOWS),
        keyword: MEASURES,
        ..EventKey::default()
    };
    let text = rules.explain_key(&key).to_string();
    assert!(
        text.starts_with("level 2 Enhanced, by rule \"windows-measures\" (catalogue.toml (shipped):"),
        "{text}"
    );
    let line: usize = text.split("shipped):").nth(1).unwrap().split(')').next().unwrap().parse().unwrap();
    assert!(SHIPPED.lines().nth(line - 1).unwrap().contains("windows-measures"));
    let raised = rules.explain_key(&EventKey { own_level: Some(Full), ..key.clone() });
    assert!(raised.to_string().contains("the rule alone gives Enhanced, changed by the event's own level"));
    let unknown =
        rules.explain_key(&EventKey { provider: "MSSQL$X".to_owned(), ..EventKey::default() }).to_string();
    assert!(
        unknown.contains("no rule knows this event") && unknown.contains("switched off with telemetry, sql")
    );
}

#[test]
fn mistakes_are_named_with_line_key_and_advice() {
    for (text, line, key, says) in [
        ("version = 1\n[[rule]]\nname = \"a\"\nlevl = 1", 4, "levl", "did you mean \"level\"?"),
        ("version = 1\n[[rule]]\nname = \"a\"\nlevel = 4", 4, "level", "3 Full"),
        (
            "version = 1\n[[rule]]\nname = \"a\"\nlevel = 1\nkeyword = \"MEASURE\"",
            5,
            "keyword",
            "did you mean MEASURES?",
        ),
        ("version = 1\n[[rule]]\nname = \"a\"\nlevel = 1\nguid = \"xyz\"", 5, "guid", "no GUID"),
        ("version = 1\n[[rule]]\nname = \"a\"\nlevel = 1\nevent = []", 5, "event", "empty"),
        ("version = 1\n[[rule]]\nname = \"a\"\n", 3, "level", "says nothing"),
        ("version = 1\n[[rule]]\nname = \"a\"\nlevel = 1\ndrop = true", 3, "drop", "either"),
        (
            "version = 1\n[[rule]]\nname=\"a\"\nlevel=1\ngroup=\"windows-telemetri\"",
            5,
            "group",
            "did you mean \"windows-telemetry\"?",
        ),
        (
            "version = 1\n[[switch]]\nname=\"a\"\ntitle=\"\"\nfamily=[\"nope-nope\"]",
            5,
            "family",
            "unknown family",
        ),
        ("version = 2", 1, "version", "version 1 only"),
        ("version = 1\n[scrub]\nemail = \"msk\"", 3, "email", "mask"),
        ("version = 1\n[[field]]\nname = \"x\"", 3, "name", "says nothing"),
        ("version = 1\n[[rule", 2, "", ""),
    ] {
        let e =
            Rules::builder().unwrap().catalogue("own.toml", text).and_then(RulesBuilder::build).unwrap_err();
        assert_eq!((e.file.as_str(), e.line), ("own.toml", line), "{text}\n{e}");
        assert!(e.to_string().contains(says) && e.key == key, "{text}\n{e}\nkey {}", e.key);
    }
}

#[test]
fn fields_of_higher_level_are_left_out_and_places_count_in_preorder() {
    let mut g = with(
        "version = 1\n[[field]]\nname = \"Detail\"\nlevel = 3\n[[rule]]\nname=\"p\"\nprovider=\"P\"\nlevel=1",
    );
    let s = schema("P", "E", &[("Detail", 0), ("Inner", 0), ("After", 0), ("Password", 0)]);
    let mut batch = Batch::new();
    let mut e = batch.begin(&s, Head::default());
    e.begin_struct(0); // 0
    e.value(1, Format::Default, ValueRef::U32(1)); // 1
    e.begin_array(1); // 2
    e.value(NO_NAME, Format::Default, ValueRef::U32(1)); // 3
    e.end();
    e.end();
    e.value(2, Format::Default, ValueRef::Str("x bob@contoso.com y")); // 4
    e.begin_array(3); // 5
    e.value(NO_NAME, Format::Default, ValueRef::Str("hunter2")); // 6
    e.end();
    e.finish();
    let event = batch.iter().next().unwrap();
    let Verdict::Pass(c) = g.clear(event, Basic) else { panic!() };
    let all: Vec<_> = c.edits().iter().map(|c| (c.place, c.edit.clone())).collect();
    assert_eq!(
        all,
        [
            (Place::Field(0), Edit::Drop),
            (Place::Field(4), Edit::Replace("x <email> y".to_owned())),
            (Place::Field(6), Edit::Replace("<secret>".to_owned())),
        ]
    );
    let Verdict::Pass(c) = g.clear(event, Full) else { panic!() };
    assert!(c.edits().at(Place::Field(0)).is_none());
    let mut g = Gate::new(Rules::builder().unwrap().scrub(false).build().unwrap());
    let Verdict::Pass(c) = g.clear(event, Full) else { panic!() };
    assert!(c.edits().is_empty());
}

#[test]
fn tags_of_fields_and_events_are_obeyed() {
    let key = scrub::PseudonymKey::new("k1", &[1; 32], std::time::Duration::from_secs(86_400)).unwrap();
    let mut g = Gate::new(Rules::builder().unwrap().pseudonym_key(key).build().unwrap());
    let s = schema("P", "E", &[("A", 0x0400_0000), ("B", 0x0800_0000)]);
    let mut batch = Batch::new();
    let mut e = batch.begin(&s, Head::default());
    e.value(0, Format::Default, ValueRef::U32(77));
    e.value(1, Format::Default, ValueRef::U64(77));
    e.finish();
    let Verdict::Pass(c) = g.clear(batch.iter().next().unwrap(), Full) else { panic!() };
    assert_eq!(c.edits().at(Place::Field(0)).unwrap().edit, Edit::Drop);
    let Edit::Replace(text) = &c.edits().at(Place::Field(1)).unwrap().edit else { panic!() };
    assert!(text.starts_with("<tagged#k1.0#"), "{text}");
    let dropping = Schema::new(SchemaParts { event_tags: 0x0200_0000, ..parts("P", "E", &[("T", 0)]) });
    let mut batch = Batch::new();
    let mut e = batch.begin(&dropping, Head::default());
    e.value(0, Format::Default, ValueRef::Str("from 203.0.113.9"));
    e.finish();
    let Verdict::Pass(c) = g.clear(batch.iter().next().unwrap(), Full) else { panic!() };
    assert_eq!(c.edits().at(Place::Field(0)).unwrap().edit, Edit::Drop);
}

#[test]
fn typed_values_extended_items_and_raw_payload_are_looked_at() {
    let mut g = gate();
    let s = schema("P", "E", &[("Addr", 0), ("Lat.itude", 0), ("Sock", 0), ("Blob", 0)]);
    let mut batch = Batch::new();
    let mut e = batch.begin(&s, Head::default());
    e.value(0, Format::Default, ValueRef::Ipv4([203, 0, 113, 9]));
    e.value(1, Format::Default, ValueRef::F64(48.137_154));
    e.value(2, Format::Default, ValueRef::SockAddr(&[2, 0, 0, 80, 198, 51, 100, 7, 0, 0]));
    let wide: Vec<u8> = "mail bob@contoso.com".encode_utf16().flat_map(u16::to_le_bytes).collect();
    e.value(3, Format::Default, ValueRef::Bytes(&wide));
    let sid = [1, 5, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0xe9, 3, 0, 0];
    e.ext(tidegate_proto::batch::ExtKey::Sid, ValueRef::Sid(&sid));
    e.raw(b"\0\0password=hunter2\0\0");
    e.finish();
    let Verdict::Pass(c) = g.clear(batch.iter().next().unwrap(), Full) else { panic!() };
    let at = |p| c.edits().at(p).map(|c| c.edit.clone());
    let text = |s: &str| Some(Edit::Replace(s.to_owned()));
    assert_eq!(at(Place::Field(0)), text("203.0.113.0/24"));
    assert_eq!(at(Place::Field(1)), text("48.1"));
    assert_eq!(at(Place::Field(2)), text("198.51.100.0/24"));
    assert_eq!(at(Place::Field(3)), text("<email>"));
    assert_eq!(at(Place::Ext(0)), text("<sid>"));
    assert_eq!(at(Place::Raw), Some(Edit::Drop));
}

#[test]
fn actions_reach_from_keep_to_dropping_the_event() {
    let mail = "to bob@contoso.com now";
    for (action, expected) in [
        ("keep", None),
        ("mask", Some("to <email> now")),
        ("generalise", Some("to *@contoso.com now")),
        ("drop", Some("FIELD")),
        ("drop-event", Some("EVENT privacy")),
    ] {
        let mut g = with(&format!("version = 1\n[scrub]\nemail = \"{action}\""));
        assert_eq!(scrubbed(&mut g, "T", mail).as_deref(), expected, "{action}");
    }
}

#[test]
fn timing() {
    // not a check: run it in a release build with --nocapture for the numbers
    let rounds = if cfg!(debug_assertions) { 2_000 } else { 2_000_000 };
    let s = schema(
        "Contoso.StorageResource",
        "DriveInventory",
        &[("Path", 0), ("Model", 0), ("Size", 0), ("Id", 0)],
    );
    let mut batch = Batch::new();
    let mut e = batch.begin(&s, Head::default());
    e.value(
        0,
        Format::Default,
        ValueRef::Str("\\Device\\HarddiskVolume3\\Windows\\System32\\drivers\\storport.sys"),
    );
    e.value(
        1,
        Format::Default,
        ValueRef::Str("drive state changed from online to degraded after a media error was seen twice"),
    );
    e.value(2, Format::Default, ValueRef::U64(1 << 40));
    e.value(3, Format::Default, ValueRef::U32(7));
    e.finish();
    let event = batch.iter().next().unwrap();
    for scrub in [false, true] {
        let mut g = Gate::new(Rules::builder().unwrap().scrub(scrub).build().unwrap());
        let start = std::time::Instant::now();
        let mut passed = 0_u64;
        for _ in 0..rounds {
            passed += u64::from(matches!(
                std::hint::black_box(g.clear(std::hint::black_box(event), Full)),
                Verdict::Pass(_)
            ));
        }
        let ns = start.elapsed().as_nanos() / rounds;
        println!("clear, scrub {scrub}: {ns} ns an event of 4 fields with 140 bytes of text");
        assert_eq!(u128::from(passed), rounds);
    }
    let text =
        "worker finished batch in state ready after retry and went on to the next of its queue, ".repeat(12);
    let line = schema("P", "E", &[("T", 0)]);
    let mut batch = Batch::new();
    let mut e = batch.begin(&line, Head::default());
    e.value(0, Format::Default, ValueRef::Str(&text));
    e.finish();
    let event = batch.iter().next().unwrap();
    let mut g = gate();
    let start = std::time::Instant::now();
    let rounds = rounds / 10;
    for _ in 0..rounds {
        std::hint::black_box(g.clear(std::hint::black_box(event), Full));
    }
    let mb = (rounds as f64 * text.len() as f64) / start.elapsed().as_secs_f64() / 1e6;
    println!("scrub, nothing found: {mb:.0} MB/s");
}
