//! What events and properties may be called: the strictest of the public
//! clients' rules, so that no receiver refuses a name.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use tidegate_proto::batch::Head;
use tidegate_proto::guid;
use tidegate_proto::schema::SchemaParts;

/// Most characters of a name.
pub const NAME_MAX: usize = 100;
/// Fewest characters of an event's name: shorter ones are said to vanish.
pub const NAME_MIN: usize = 4;

/// Whether an event may be called so: 4 to 100 of `[A-Za-z0-9_.]`, a letter or
/// digit first, no two dots in a row, no dot at the end.
#[must_use]
pub fn is_event_name(name: &str) -> bool {
    (NAME_MIN..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !name.ends_with('.')
        && !name.contains("..")
}

/// Whether a property may be called so: 1 to 100 of `[A-Za-z0-9_.]`, no dot at either end.
#[must_use]
pub fn is_property_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
        && !name.starts_with('.')
        && !name.ends_with('.')
}

/// The event's name at the far side: `Provider.Event`, each character that is
/// not allowed as `_`. An event without a name is called by its task and opcode
/// or its number, a provider without one by its GUID.
pub(super) fn event_name(schema: &SchemaParts, head: &Head) -> String {
    let mut full = if schema.provider_name.is_empty() {
        format!("Guid{}", guid::format(&schema.provider_guid).replace('-', ""))
    } else {
        schema.provider_name.clone()
    };
    full.push('.');
    // writing to a string does not fail
    let _ = match (&*schema.event_name, &*schema.task_name, &*schema.opcode_name) {
        ("", "", _) if head.id == 0 => write!(full, "Opcode{}", head.opcode),
        ("", "", _) => write!(full, "Event{}", head.id),
        ("", task, "") => write!(full, "{task}"),
        ("", task, opcode) => write!(full, "{task}.{opcode}"),
        (event, _, _) => write!(full, "{event}"),
    };
    let mut name = fit(&full, NAME_MAX);
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        name = fit(&format!("E{name}"), NAME_MAX);
    }
    while name.len() < NAME_MIN {
        name.push('_');
    }
    name
}

/// A property's name at the far side; nameless ones are called by their place.
pub(super) fn property_name(name: &str, index: usize) -> String {
    if name.is_empty() { format!("field{index}") } else { fit(name, NAME_MAX) }
}

/// Allowed characters only; a name that is too long is cut and ends in eight
/// digits of its digest, so that two of them stay two.
fn fit(name: &str, most: usize) -> String {
    let mut fitted: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' }).collect();
    if fitted.starts_with('.') {
        fitted.replace_range(..1, "_");
    }
    if fitted.ends_with('.') {
        fitted.pop();
        fitted.push('_');
    }
    while let Some(at) = fitted.find("..") {
        fitted.replace_range(at..at + 1, "_");
    }
    if fitted.len() > most {
        fitted.truncate(most - 9);
        fitted.push('_');
        for byte in Sha256::digest(name).iter().take(4) {
            let _ = write!(fitted, "{byte:02x}");
        }
    }
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(provider: &str, event: &str) -> String {
        let schema = SchemaParts {
            provider_name: provider.to_owned(),
            event_name: event.to_owned(),
            ..SchemaParts::default()
        };
        event_name(&schema, &Head::default())
    }

    #[test]
    fn event_names_keep_to_the_strictest_rule() {
        let long = "x".repeat(300);
        for (provider, event, want) in [
            ("Contoso.App", "Started", "Contoso.App.Started"),
            ("Microsoft-Windows-Kernel", "Power State", "Microsoft_Windows_Kernel.Power_State"),
            ("a", "b", "a.b_"),
            ("_hidden", "E", "E_hidden.E"),
            (".Net", "gc..end.", "E_Net.gc_.end_"),
            ("a...b", "ünïcode/😀", "a__.b._n_code__"),
        ] {
            let name = named(provider, event);
            assert_eq!(name, want);
            assert!(is_event_name(&name), "{name}");
        }
        let (a, b) = (named("P", &format!("{long}1")), named("P", &format!("{long}2")));
        assert!(is_event_name(&a) && is_event_name(&b));
        assert_eq!(a.len(), NAME_MAX);
        assert_ne!(a, b, "names that differ only in what is cut stay apart");
    }

    #[test]
    fn events_and_providers_without_a_name_are_called_by_number() {
        let mut schema = SchemaParts { provider_guid: [0xab; 16], ..SchemaParts::default() };
        let head = Head { id: 7, opcode: 3, ..Head::default() };
        let guid = "ab".repeat(16);
        assert_eq!(event_name(&schema, &head), format!("Guid{guid}.Event7"));
        assert_eq!(event_name(&schema, &Head { id: 0, ..head }), format!("Guid{guid}.Opcode3"));
        schema.task_name = "Process".to_owned();
        assert_eq!(event_name(&schema, &head), format!("Guid{guid}.Process"));
        schema.opcode_name = "DCStart".to_owned();
        assert_eq!(event_name(&schema, &head), format!("Guid{guid}.Process.DCStart"));
    }

    #[test]
    fn property_names_keep_to_the_rule() {
        for (name, want) in [
            ("Count", "Count"),
            ("dotted.key", "dotted.key"),
            (".x.", "_x_"),
            (".", "_"),
            ("key with space", "key_with_space"),
            ("ключ", "____"),
            ("", "field3"),
        ] {
            assert_eq!(property_name(name, 3), want);
            assert!(is_property_name(want));
        }
        assert!(is_property_name(&property_name(&"é.".repeat(500), 0)));
        assert!(!is_property_name("") && !is_property_name("a b") && !is_property_name(".a"));
    }
}
