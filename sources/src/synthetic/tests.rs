use tidegate_proto::json::write_event;
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::wire::{BlockBuilder, Unchanged};

use super::*;

fn config() -> SyntheticConfig {
    SyntheticConfig { start: Some("2026-01-01T00:00:00Z".parse().unwrap()), ..SyntheticConfig::default() }
}

fn made(config: &SyntheticConfig, from: u64, most: usize) -> Batch {
    let mut batch = Batch::new();
    Maker::new(config, None, from).fill(&mut batch, most);
    batch
}

fn lines(batch: &Batch) -> Vec<String> {
    let line = |event| {
        let mut out = Vec::new();
        write_event(&mut out, event, None);
        String::from_utf8(out).unwrap()
    };
    batch.iter().map(line).collect()
}

#[test]
fn an_event_is_a_function_of_its_number() {
    let all = lines(&made(&config(), 0, 200));
    assert_eq!(all.len(), 200);
    assert_eq!(lines(&made(&config(), 150, 50)), all[150..]);
    let other = SyntheticConfig { seed: 2, ..config() };
    assert_ne!(lines(&made(&other, 0, 200)), all);
}

#[test]
fn levels_come_by_their_weights() {
    let levels = Levels { security: 10, basic: 20, enhanced: 30, full: 40 };
    let batch = made(&SyntheticConfig { levels, ..config() }, 0, 2000);
    for (level, share) in TelemetryLevel::ALL.into_iter().zip([0.1, 0.2, 0.3, 0.4]) {
        let n = batch.iter().filter(|e| e.head().telemetry_level == Some(level)).count();
        let expected = batch.len() as f64 * share;
        assert!((n as f64 - expected).abs() < expected * 0.25, "{level}: {n} of {}", batch.len());
    }
    let only = Levels { security: 0, basic: 0, enhanced: 1, full: 0 };
    let batch = made(&SyntheticConfig { levels: only, ..config() }, 0, 100);
    assert!(batch.iter().all(|e| e.head().telemetry_level == Some(TelemetryLevel::Enhanced)));
}

#[test]
fn sizes_lie_around_their_mean() {
    for (spread, mean) in [(Spread::Fixed, 256), (Spread::Uniform, 1000), (Spread::Exponential, 400)] {
        let size = Sizes { mean, spread, max: 16 << 10 };
        let batch = made(&SyntheticConfig { size, ..config() }, 0, 1000);
        let mut block = BlockBuilder::new();
        batch.iter().for_each(|e| block.push(e, TelemetryLevel::Full, &Unchanged));
        // the schemas are part of a block once
        let each = (block.len() - 4000) as f64 / batch.len() as f64;
        assert!((each - f64::from(mean)).abs() < f64::from(mean) * 0.2, "{spread:?} {mean}: {each}");
    }
}

#[test]
fn times_follow_rate_and_bursts() {
    let times = |rate, burst, n: u64| -> Vec<i64> {
        let plan = Plan::new(rate, burst);
        (0..n).map(|n| plan.offset_ns(n) / 1_000_000).collect()
    };
    assert_eq!(times(Some(10.0), None, 12), [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1100]);
    assert_eq!(times(Some(0.5), None, 3), [0, 2000, 4000]);
    let burst = Burst { events: 3, every_ms: 400 };
    assert_eq!(times(Some(5.0), Some(burst), 11), [0, 0, 0, 0, 200, 400, 400, 400, 400, 600, 800]);
    assert_eq!(Plan::new(None, None).offset_ns(7), 7000);
    assert_eq!(Plan::new(Some(0.001), None).offset_ns(u64::MAX), i64::MAX);
    // a rate that divides no second stays exact over a year
    let plan = Plan::new(Some(3.0), None);
    let year = plan.offset_ns(3 * 31_536_000);
    assert!((year - 31_536_000_000_000_000).abs() < 1_000_000_000, "{year}");
}

#[test]
fn families_and_personal_data_are_as_asked() {
    let only = SyntheticConfig {
        families: vec![Family::Windows],
        levels: Levels { security: 0, ..Levels::default() },
        personal: 1.0,
        ..config()
    };
    let batch = made(&only, 0, 100);
    for event in batch.iter() {
        assert_eq!(event.schema().provider_name, "Synthetic.Windows.Shell");
        assert_ne!(event.head().keyword & 0xe000_0000_0000, 0);
        assert!(event.fields().any(|f| {
            ["userEmail", "userName", "clientAddress", "accessToken"].contains(&f.name.unwrap_or_default())
        }));
    }
}

#[test]
fn contradicting_settings_are_named() {
    let check = |change: fn(&mut SyntheticConfig)| {
        let mut config = config();
        change(&mut config);
        config.check().unwrap_err()
    };
    assert!(check(|c| c.rate = Some(0.0)).starts_with("rate"));
    assert!(check(|c| c.burst = Some(Burst { events: 1, every_ms: 1 })).contains("needs rate"));
    assert!(check(|c| c.size.mean = 1 << 20).starts_with("size.mean"));
    assert!(check(|c| c.personal = f64::NAN).starts_with("personal"));
    assert!(check(|c| c.levels = Levels { security: 0, basic: 0, enhanced: 0, full: 0 }).contains("weight"));
}
