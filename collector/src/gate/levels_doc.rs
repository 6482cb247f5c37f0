//! Makes `collector/docs/LEVELS.md` from the shipped catalogue, and fails when it is out of date.
//! `TIDEGATE_WRITE_DOCS=1 cargo test -p tidegate levels_doc` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

use tidegate_proto::level::TelemetryLevel;

use super::SHIPPED;
use super::catalogue::{CatalogueToml, Globs, RuleToml, read_toml};
use super::names;

const HOLDS: [(&str, &str); 4] = [
    ("Security", "security data only, with the collector's own settings; nothing specific to the platform"),
    ("Basic", "basic device information, the collector's own functioning, quality, compatibility"),
    ("Enhanced", "usage, performance and advanced reliability; the default"),
    ("Full", "all that helps to find and fix a problem, and every event that no rule knows"),
];

fn globs(list: &Globs) -> String {
    list.0.iter().map(|g| format!("`{}`", g.as_str())).collect::<Vec<_>>().join(" ")
}

fn bits(table: &[(&str, u64)], mask: u64) -> String {
    table.iter().filter(|(_, b)| mask & b != 0).map(|(n, _)| format!("`{n}`")).collect::<Vec<_>>().join(" ")
}

fn who(rule: &RuleToml, catalogue: &CatalogueToml) -> String {
    let mut parts = Vec::new();
    if let Some(family) = &rule.family {
        let found = catalogue.families.iter().find(|f| f.name.get_ref() == family.get_ref()).unwrap();
        parts.push(globs(&found.provider));
    }
    parts.extend(rule.provider.as_ref().map(globs));
    parts.extend(rule.group.as_ref().map(|g| format!("provider group `{}`", g.get_ref())));
    parts.extend(rule.decoder.map(|d| format!("decoder `{}`", d.0.as_str())));
    parts.join(", ")
}

fn what(rule: &RuleToml) -> String {
    let mut parts = Vec::new();
    parts.extend(rule.event.as_ref().map(globs));
    parts.extend(rule.keyword.map(|k| format!("keyword {}", bits(names::KEYWORDS, k.0))));
    parts.extend(rule.tag.map(|t| format!("event tag {}", bits(names::EVENT_TAGS, t.0))));
    if parts.is_empty() { "all other events".to_owned() } else { parts.join(", ") }
}

fn document() -> String {
    let catalogue: CatalogueToml = read_toml("shipped", SHIPPED).unwrap();
    let mut out = String::from(
        "# What each telemetry level sends\n\nMade by a test from `collector/src/gate/catalogue.toml`. Levels are \
         cumulative: each sends what the ones above it in this page send as well. In the catalogue the first rule \
         that fits decides; an operator's own catalogue stands in front of it. `tidegate level explain` names the \
         rule for one event, `tidegate level diff` shows what a higher level adds with real events.\n",
    );
    for level in TelemetryLevel::ALL {
        let (name, holds) = HOLDS[level as usize];
        assert_eq!(name, level.as_str());
        let _ = write!(out, "\n## {} {name}\n\n{}.\n", level as u8, holds);
        let rules: Vec<_> =
            catalogue.rules.iter().filter(|r| r.level.is_some_and(|l| l.0 == level)).collect();
        if !rules.is_empty() {
            out.push_str("\n| rule | providers | events |\n|---|---|---|\n");
        }
        for rule in rules {
            let _ = writeln!(out, "| {} | {} | {} |", rule.name.get_ref(), who(rule, &catalogue), what(rule));
        }
        if catalogue.default_level.is_some_and(|l| l.0 == level) {
            out.push_str("\nEvents that no rule knows are of this level.\n");
        }
        for tag in catalogue.privacy.iter().filter(|p| p.level.is_some_and(|l| l.0 == level)) {
            let _ = writeln!(
                out,
                "\nEvents with the privacy tag {} are of this level at least.",
                bits(names::PRIVACY_TAGS, tag.tag.0)
            );
        }
    }
    out.push_str("\n## At every level\n\nPersonal data and secrets are changed before anything is stored:\n\n| found | becomes |\n|---|---|\n");
    for (kind, action) in catalogue.scrub.actions() {
        let action = action.map(|a| format!("{a:?}").to_lowercase()).unwrap_or_default();
        let _ = writeln!(out, "| {} | {action} |", kind.as_str());
    }
    out.push_str("\n## Switches\n\nWhat is switched off sends nothing at any level.\n\n| switch | what | goes off with |\n|---|---|---|\n");
    for s in &catalogue.switches {
        let with = s.with.iter().map(|w| w.get_ref().as_str()).collect::<Vec<_>>().join(", ");
        let _ = writeln!(out, "| {} | {} | {with} |", s.name.get_ref(), s.title);
    }
    out
}

#[test]
fn levels_doc_is_what_the_shipped_catalogue_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/LEVELS.md");
    let made = document();
    if std::env::var_os("TIDEGATE_WRITE_DOCS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == made,
        "docs/LEVELS.md is out of date: TIDEGATE_WRITE_DOCS=1 cargo test -p tidegate levels_doc"
    );
}
