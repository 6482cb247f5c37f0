//! What is kept, what is not, and that time given by the caller decides.

use std::sync::Arc;

use tidegate_proto::batch::{Batch, Head};
use tidegate_proto::level::TelemetryLevel::{Basic, Full, Security};
use tidegate_proto::schema::{Decoder, FieldDef, Schema, SchemaParts};
use tidegate_proto::value::{Format, ValueRef};

use super::{Sampled, Sampler, SamplingRules};
use crate::gate::{Gate, Rules, Verdict};

const SECOND: i64 = 1_000_000_000;

fn schema(provider: &str, event: &str, decoder: Decoder) -> Arc<Schema> {
    Schema::new(SchemaParts {
        provider_name: provider.to_owned(),
        provider_guid: [provider.len() as u8; 16],
        event_name: event.to_owned(),
        decoder,
        fields: vec![FieldDef { name: "n".to_owned(), tags: 0 }],
        ..SchemaParts::default()
    })
}

fn rules(toml: &str) -> SamplingRules {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(default)]
        sampling: Vec<super::SampleRule>,
        per_second: Option<f64>,
    }
    let file: File = toml::from_str(toml).unwrap();
    SamplingRules::new(file.sampling, file.per_second)
}

/// A gate that lets everything pass, and a sampler.
struct Stage {
    gate: Gate,
    sampler: Sampler,
}

impl Stage {
    fn new(rules: SamplingRules) -> Stage {
        Stage { gate: Gate::new(Rules::empty_builder().build().unwrap()), sampler: Sampler::new(rules) }
    }

    /// The rate an event is kept with; `None` = left out.
    fn offer(&mut self, schema: &Arc<Schema>, head: Head, value: u32, now_ns: i64) -> Option<u32> {
        let mut batch = Batch::new();
        let mut e = batch.begin(schema, head);
        e.value(0, Format::Default, ValueRef::U32(value));
        e.finish();
        let Verdict::Pass(cleared) = self.gate.clear(batch.get(0).unwrap(), Full) else {
            panic!("not cleared")
        };
        match self.sampler.decide(cleared, now_ns) {
            Sampled::Keep(c) => Some(c.sample_ppm()),
            Sampled::Drop | Sampled::Off => None,
        }
    }
}

fn at(n: i64) -> Head {
    Head { time_ns: 1_700_000_000 * SECOND + n * 7_919, pid: 4, tid: 8, ..Head::default() }
}

#[test]
fn without_rules_everything_is_kept_as_it_is() {
    let mut stage = Stage::new(SamplingRules::default());
    assert_eq!(stage.offer(&schema("P", "E", Decoder::Json), at(1), 0, 0), Some(0));
    assert_eq!(stage.offer(&schema("P", "E", Decoder::Json), Head { sample_ppm: 7, ..at(1) }, 0, 0), Some(7));
}

#[test]
fn a_share_is_kept_with_its_rate_and_a_replay_decides_the_same() {
    let text = "[[sampling]]\nprovider = \"Noisy*\"\nkeep = 0.1";
    let s = schema("Noisy.One", "E", Decoder::Json);
    let run = || -> Vec<i64> {
        let mut stage = Stage::new(rules(text));
        // the caller's clock has no say
        (0..20_000).filter(|n| stage.offer(&s, at(*n), 0, n * 31) == Some(100_000)).collect()
    };
    let kept = run();
    assert!((1_800..2_200).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept, run());
    let mut stage = Stage::new(rules(text));
    assert_eq!(
        stage.offer(&schema("Quiet", "E", Decoder::Json), at(1), 0, 0),
        Some(0),
        "other providers are whole"
    );
    // sampled twice: half of the events that were one in ten
    let half = rules("[[sampling]]\nkeep = 0.5");
    let mut stage = Stage::new(half);
    let again = (0..100).find_map(|n| stage.offer(&s, Head { sample_ppm: 100_000, ..at(n) }, 0, 0));
    assert_eq!(again, Some(50_000));
}

#[test]
fn what_has_one_activity_is_kept_or_left_out_together() {
    let mut stage = Stage::new(rules("[[sampling]]\nkeep = 0.3"));
    let (a, b) = (schema("A", "Start", Decoder::Json), schema("B", "Stop", Decoder::Json));
    let mut kept = 0;
    for n in 1..=2_000_u128 {
        let activity = n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes();
        let head = |time_ns| Head { activity, time_ns, ..Head::default() };
        let first = stage.offer(&a, head(1), 0, 0);
        assert_eq!(first, stage.offer(&b, head(n as i64), 1, 0));
        kept += usize::from(first.is_some());
    }
    assert!((500..700).contains(&kept), "{kept}");
}

#[test]
fn level_security_and_our_own_events_are_never_left_out() {
    let mut stage = Stage::new(rules("per_second = 0.0\n[[sampling]]\nkeep = 0.0"));
    assert_eq!(stage.offer(&schema("P", "E", Decoder::Json), at(1), 0, 0), None);
    assert_eq!(stage.offer(&schema("Tidegate", "Health", Decoder::Own), at(1), 0, 0), Some(0));
    stage.gate = Gate::new(Rules::empty_builder().default_level(Security).build().unwrap());
    assert_eq!(stage.offer(&schema("P", "E", Decoder::Json), at(1), 0, 0), Some(0));
    stage.gate = Gate::new(Rules::empty_builder().default_level(Basic).build().unwrap());
    assert_eq!(stage.offer(&schema("P", "E", Decoder::Json), at(1), 0, 0), None);
}

#[test]
fn a_rate_passes_a_burst_and_then_its_rate() {
    let mut stage = Stage::new(rules("[[sampling]]\nevent = \"E\"\nper_second = 10\nburst = 25"));
    let s = schema("P", "E", Decoder::Json);
    let mut passed = |from: i64, events: i64, now: i64| {
        (from..from + events).filter(|n| stage.offer(&s, at(*n), 0, now).is_some()).count()
    };
    assert_eq!(passed(0, 100, 0), 25);
    assert_eq!(passed(100, 100, SECOND / 2), 5);
    assert_eq!(passed(200, 100, SECOND / 4), 0, "a clock that goes back gives nothing");
    assert_eq!(passed(300, 100, 100 * SECOND), 25);
}

#[test]
fn a_noisy_provider_crowds_out_no_other() {
    let mut stage = Stage::new(rules("per_second = 100"));
    let noisy = schema("Noisy", "E", Decoder::Json);
    let quiet: Vec<_> = ["Q", "Qu", "Qui"].iter().map(|p| schema(p, "E", Decoder::Json)).collect();
    for second in 0..10 {
        let (mut loud, mut soft) = (0, 0);
        for n in 0..1_000 {
            let now = second * SECOND + n * 1_000_000;
            loud += usize::from(stage.offer(&noisy, at(n), 0, now).is_some());
            if n % 100 == 99 {
                soft += quiet.iter().filter(|q| stage.offer(q, at(n), 1, now).is_some()).count();
            }
        }
        assert_eq!(soft, 30, "second {second}: who is quiet loses nothing");
        assert!(loud + soft <= 200, "second {second}: {loud} {soft}");
        if second > 0 {
            assert_eq!(loud, 70, "second {second}: the noisy one has what the others leave");
        }
    }
}

#[test]
fn equal_events_become_the_first_and_a_count() {
    let mut stage = Stage::new(rules("[[sampling]]\nprovider = \"P\"\nrepeats = \"10s\""));
    let s = schema("P", "Retry", Decoder::Json);
    assert_eq!(stage.offer(&s, at(0), 1, 0), Some(0));
    for n in 1..=5 {
        assert_eq!(stage.offer(&s, at(n), 1, n * SECOND), None);
    }
    assert_eq!(stage.offer(&s, at(6), 2, 6 * SECOND), Some(0), "another value is another event");
    assert_eq!(stage.sampler.next_repeats(), Some(10 * SECOND));
    let mut told = Batch::new();
    stage.sampler.take_repeats(9 * SECOND, &mut told);
    assert!(told.is_empty());
    stage.sampler.take_repeats(i64::MAX, &mut told);
    assert_eq!(told.len(), 1, "a run without a repeat is not told");
    let event = told.get(0).unwrap();
    assert_eq!((event.schema().event_name.as_str(), event.head().telemetry_level), ("Repeats", Some(Full)));
    let values: Vec<_> = event.fields().map(|f| format!("{:?}", f.value)).collect();
    assert_eq!(values[..4], ["Str(\"P\")", "Str(\"Retry\")", "U16(0)", "U64(5)"]);
    let time = |n| format!("FileTime({})", tidegate_proto::time::unix_ns_to_filetime(at(n).time_ns));
    assert_eq!(values[4..], [time(0), time(5)]);
    assert_eq!(stage.sampler.next_repeats(), None);
    assert_eq!(stage.offer(&s, at(7), 1, 20 * SECOND), Some(0), "a new run");
}

#[test]
fn repeats_under_way_are_bounded_and_survive_new_rules() {
    let text = "[[sampling]]\nrepeats = 3600";
    let mut stage = Stage::new(rules(text));
    let s = schema("P", "E", Decoder::Json);
    for n in 0..2 * Sampler::REPEATS as u32 {
        stage.offer(&s, at(0), n, 0);
        assert_eq!(stage.offer(&s, at(1), n, 0), None);
    }
    stage.sampler.set_rules(rules("per_second = 5"));
    let mut told = Batch::new();
    stage.sampler.take_repeats(i64::MAX, &mut told);
    assert_eq!(told.len(), 2 * Sampler::REPEATS);
}

#[test]
fn remote_rules_only_reduce() {
    let s = schema("P", "E", Decoder::Json);
    let share = |own: &str, remote: &str| {
        let all = rules(own).with_remote(rules(remote).rules().to_vec());
        let mut stage = Stage::new(all);
        (0..1_000).filter(|n| stage.offer(&s, at(*n), 0, 0).is_some()).count()
    };
    let (half, none, whole) =
        ("[[sampling]]\nkeep = 0.5", "[[sampling]]\nkeep = 0", "[[sampling]]\nkeep = 1.0");
    assert_eq!(share("", whole), 1_000);
    assert_eq!(share(half, whole), share(half, ""), "a remote rule does not raise a share");
    assert_eq!(share("", none), 0);
    assert_eq!(share(whole, none), 0);
}

#[test]
fn wrong_rules_are_named() {
    for (text, says) in [
        ("keep = 1.5", "between 0 and 1"),
        ("keep = -0.1", "between 0 and 1"),
        ("per_second = -1", "number of events"),
        ("repeats = \"10 parsecs\"", "10s, 2m"),
        ("repeats = \"2h\"", "up to an hour"),
        ("kep = 0.1", "unknown field `kep`"),
        ("provider = []", "empty"),
    ] {
        let error = toml::from_str::<super::SampleRule>(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn timing() {
    // not a check: run it in a release build with --nocapture for the numbers
    let rounds = if cfg!(debug_assertions) { 1_000 } else { 5_000_000 };
    let s = schema("P", "E", Decoder::Json);
    let mut batch = Batch::new();
    let mut e = batch.begin(&s, at(1));
    e.value(0, Format::Default, ValueRef::U32(7));
    e.finish();
    for text in ["", "[[sampling]]\nkeep = 0.5", "per_second = 100", "[[sampling]]\nrepeats = 10"] {
        let mut gate = Gate::new(Rules::empty_builder().build().unwrap());
        let mut sampler = Sampler::new(rules(text));
        let Verdict::Pass(cleared) = gate.clear(batch.get(0).unwrap(), Full) else { panic!() };
        let start = std::time::Instant::now();
        for n in 0..rounds {
            std::hint::black_box(sampler.decide(std::hint::black_box(cleared), n));
        }
        println!("{:.1} ns an event with {text:?}", start.elapsed().as_nanos() as f64 / rounds as f64);
    }
}
