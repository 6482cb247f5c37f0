//! Goes through an event's values once and collects the changes.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tidegate_proto::batch::{EventRef, Fields};
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::value::ValueRef;

use super::cues::Hit;
use super::find::{Finder, Found};
use super::{Action, Actions, Kind, PseudonymKey, numbers};
use crate::gate::catalogue::{RawPolicy, ScrubToml};
use crate::gate::edits::{Change, Edit, Edits, Place};
use crate::gate::names;
use crate::gate::rules::Plan;

/// Deeper nesting is left out unseen.
const MAX_DEPTH: u32 = 16;

/// The scrubber's settings.
#[derive(Debug)]
pub(in crate::gate) struct Policy {
    pub enabled: bool,
    actions: Actions,
    raw: RawPolicy,
    hosts: Vec<String>,
    key: Option<PseudonymKey>,
}

impl Policy {
    pub fn new(key: Option<PseudonymKey>) -> Policy {
        Policy {
            enabled: false,
            actions: [Action::Mask; Kind::COUNT],
            raw: RawPolicy::Scan,
            hosts: Vec::new(),
            key,
        }
    }

    /// Takes over what a catalogue says.
    pub fn apply(&mut self, toml: &ScrubToml) {
        self.enabled = toml.enabled.unwrap_or(self.enabled);
        self.raw = toml.raw.unwrap_or(self.raw);
        for (kind, action) in toml.actions() {
            if let (Some(slot), Some(action)) = (self.actions.get_mut(kind as usize), action) {
                *slot = action;
            }
        }
        self.hosts.extend(toml.hosts.iter().filter(|h| !h.is_empty()).cloned());
    }

    /// The actions for an event with these event tags: tags make them only stricter.
    pub fn actions_for(&self, tags: u32) -> Actions {
        let has =
            |name: &str| names::EVENT_TAGS.iter().any(|(n, bit)| *n == name && u64::from(tags) & bit != 0);
        let floor = |kind: Kind| match kind {
            Kind::Email | Kind::User | Kind::Sid if has("DROP_USER_IDS") => Action::Drop,
            Kind::Secret | Kind::Card | Kind::Tagged => Action::Keep,
            _ if has("DROP_PII") => Action::Drop,
            Kind::Ip if has("DROP_PII_EXCEPT_IP") => Action::Keep,
            _ if has("DROP_PII_EXCEPT_IP") => Action::Drop,
            _ if has("HASH_PII") => Action::Pseudonym,
            _ => Action::Keep,
        };
        let mut actions = self.actions;
        for (kind, slot) in Kind::ALL.into_iter().zip(&mut actions) {
            *slot = slot.stricter(floor(kind));
        }
        actions
    }
}

/// What is to be done with one event.
pub(in crate::gate) struct Job<'j> {
    pub policy: &'j Policy,
    pub plan: &'j Plan,
    pub permit: TelemetryLevel,
    /// What privacy tags ask for on every value.
    pub whole: Option<Action>,
}

/// The event may not pass.
pub(in crate::gate) struct Refused;

/// Working memory of one thread.
#[derive(Debug)]
pub(in crate::gate) struct Scrubber {
    finder: Finder,
    hits: Vec<Hit>,
    found: Vec<Found>,
    text: String,
    next: u32,
}

/// The bits of a payload field `PartA_PrivTags`.
pub(in crate::gate) fn priv_tags_of(event: EventRef<'_>, index: u32) -> u64 {
    match event.fields().find(|f| f.name_index == index).map(|f| f.value) {
        Some(ValueRef::U64(n)) => n,
        Some(ValueRef::I64(n)) => n.cast_unsigned(),
        Some(ValueRef::U32(n)) => u64::from(n),
        Some(ValueRef::Str(s)) => s.parse().unwrap_or(0),
        _ => 0,
    }
}

/// Whether a value can only be told by its field's name: a number, a time, an id.
fn is_plain(value: ValueRef<'_>) -> bool {
    !matches!(
        value,
        ValueRef::Str(_)
            | ValueRef::Bytes(_)
            | ValueRef::Sid(_)
            | ValueRef::Ipv4(_)
            | ValueRef::Ipv6(_)
            | ValueRef::SockAddr(_)
            | ValueRef::Struct(_)
            | ValueRef::Array(_)
    )
}

type Whole = Option<(Kind, Action)>;

fn stricter(a: Whole, b: Whole) -> Whole {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.1.rank() > a.1.rank() { b } else { a }),
        (a, b) => a.or(b),
    }
}

impl Scrubber {
    pub fn new(policy: &Policy) -> Scrubber {
        Scrubber {
            finder: Finder::new(&policy.hosts),
            hits: Vec::new(),
            found: Vec::new(),
            text: String::new(),
            next: 0,
        }
    }

    /// Collects the changes of one event in the order of their places.
    pub fn run(&mut self, job: &Job<'_>, event: EventRef<'_>, edits: &mut Edits) -> Result<(), Refused> {
        self.next = 0;
        let time = event.head().time_ns;
        let whole = job.whole.map(|a| (Kind::Tagged, a));
        self.fields(job, event.fields(), whole, time, 0, edits)?;
        if !job.policy.enabled {
            return Ok(());
        }
        for (n, (_, value)) in (0..).zip(event.ext()) {
            self.leaf(job, Place::Ext(n), value, None, time, edits)?;
        }
        let raw = event.raw();
        if !raw.is_empty() {
            let (action, kind) = match (job.policy.raw, whole) {
                (_, Some((kind, _))) => (Action::Drop, Some(kind)),
                (RawPolicy::Keep, None) => (Action::Keep, None),
                (RawPolicy::Drop, None) => (Action::Drop, Some(Kind::Tagged)),
                (RawPolicy::Scan, None) => match self.in_bytes(job, raw) {
                    Some((_, Action::DropEvent)) => return Err(Refused),
                    Some((kind, _)) => (Action::Drop, Some(kind)),
                    None => (Action::Keep, None),
                },
            };
            if action != Action::Keep {
                edits.push(Change { place: Place::Raw, edit: Edit::Drop, kind, action });
            }
        }
        Ok(())
    }

    fn fields(
        &mut self,
        job: &Job<'_>,
        fields: Fields<'_>,
        inherited: Whole,
        time: i64,
        depth: u32,
        edits: &mut Edits,
    ) -> Result<(), Refused> {
        for field in fields {
            let place = Place::Field(self.next);
            self.next = self.next.saturating_add(1);
            let plan = usize::try_from(field.name_index).ok().and_then(|n| job.plan.fields.get(n));
            let inner = match field.value {
                ValueRef::Struct(inner) | ValueRef::Array(inner) => Some(inner),
                _ => None,
            };
            if plan.is_some_and(|p| p.level.is_some_and(|l| l > job.permit)) {
                edits.push(Change { place, edit: Edit::Drop, kind: None, action: Action::Drop });
                self.skip(inner);
                continue;
            }
            if !job.policy.enabled {
                self.skip_or_enter(job, inner, time, depth, edits)?;
                continue;
            }
            let whole = stricter(inherited, plan.and_then(|p| p.whole));
            if whole.is_none() && is_plain(field.value) {
                continue;
            }
            if let (ValueRef::Array(items), None) = (field.value, whole)
                && let Some(n) = items.plain_len()
            {
                // a row of numbers: nothing to find, no names to go by
                self.next = self.next.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
                continue;
            }
            match (inner, whole) {
                (None, _) => self.leaf(job, place, field.value, whole, time, edits)?,
                (Some(_), Some((_, Action::DropEvent))) => return Err(Refused),
                (Some(_), Some((kind, action @ Action::Drop))) => {
                    edits.push(Change { place, edit: Edit::Drop, kind: Some(kind), action });
                    self.skip(inner);
                }
                (Some(_), _) if depth >= MAX_DEPTH => {
                    edits.push(Change {
                        place,
                        edit: Edit::Drop,
                        kind: Some(Kind::Tagged),
                        action: Action::Drop,
                    });
                    self.skip(inner);
                }
                (Some(inner), _) => self.fields(job, inner, whole, time, depth + 1, edits)?,
            }
        }
        Ok(())
    }

    /// Without scrubbing, only levels of inner fields count.
    fn skip_or_enter(
        &mut self,
        job: &Job<'_>,
        inner: Option<Fields<'_>>,
        time: i64,
        depth: u32,
        edits: &mut Edits,
    ) -> Result<(), Refused> {
        match inner {
            Some(inner) if depth < MAX_DEPTH => self.fields(job, inner, None, time, depth + 1, edits),
            // a level below this depth could not be kept
            Some(_) => Err(Refused),
            None => Ok(()),
        }
    }

    /// Counts the nodes below one that is left out. Keeps its own stack: depth is not bounded here.
    fn skip(&mut self, inner: Option<Fields<'_>>) {
        let mut open: Vec<Fields<'_>> = inner.into_iter().collect();
        while let Some(top) = open.last_mut() {
            match top.next() {
                Some(field) => {
                    self.next = self.next.saturating_add(1);
                    if let ValueRef::Struct(f) | ValueRef::Array(f) = field.value {
                        open.push(f);
                    }
                }
                None => {
                    open.pop();
                }
            }
        }
    }

    fn leaf(
        &mut self,
        job: &Job<'_>,
        place: Place,
        value: ValueRef<'_>,
        whole: Whole,
        time: i64,
        edits: &mut Edits,
    ) -> Result<(), Refused> {
        let wanted = job.plan.wanted;
        let by_type = |kind: Kind| {
            let action = job.plan.actions.get(kind as usize).copied().unwrap_or(Action::Mask);
            (wanted & kind.bit() != 0).then_some((kind, action))
        };
        let typed = match value {
            ValueRef::Str(text) if whole.is_none() => return self.text(job, place, text, time, edits),
            ValueRef::Bytes(bytes) if whole.is_none() => {
                return match self.in_bytes(job, bytes) {
                    None => Ok(()),
                    Some((_, Action::DropEvent)) => Err(Refused),
                    Some((kind, action)) => {
                        // inside of binary data nothing can be replaced
                        let mask = Edit::Replace(format!("<{}>", kind.as_str()));
                        let edit = if action == Action::Drop { Edit::Drop } else { mask };
                        edits.push(Change { place, edit, kind: Some(kind), action });
                        Ok(())
                    }
                };
            }
            ValueRef::Sid(sid) if names_a_person(sid) => by_type(Kind::Sid),
            ValueRef::Ipv4(_) | ValueRef::Ipv6(_) | ValueRef::SockAddr(_) => {
                address(value).filter(|a| numbers::is_personal_ip(*a)).and_then(|_| by_type(Kind::Ip))
            }
            _ => None,
        };
        let Some((kind, action)) = stricter(whole, typed) else { return Ok(()) };
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let some = write_value(&mut text, value, kind);
        let result = if !some || super::find::is_done(text.as_bytes()) {
            Ok(())
        } else {
            match action {
                Action::Keep => Ok(()),
                Action::DropEvent => Err(Refused),
                Action::Drop => {
                    edits.push(Change { place, edit: Edit::Drop, kind: Some(kind), action });
                    Ok(())
                }
                _ => {
                    let mut out = String::new();
                    // a generalised address has a form only where the value is one
                    let form = typed.map_or(kind, |(k, _)| k);
                    replace(job.policy, &mut out, form, action, &text, time);
                    edits.push(Change { place, edit: Edit::Replace(out), kind: Some(kind), action });
                    Ok(())
                }
            }
        };
        self.text = text;
        result
    }

    fn text(
        &mut self,
        job: &Job<'_>,
        place: Place,
        text: &str,
        time: i64,
        edits: &mut Edits,
    ) -> Result<(), Refused> {
        self.found.clear();
        self.finder.find(text, job.plan.wanted, &mut self.hits, &mut self.found);
        if self.found.is_empty() {
            return Ok(());
        }
        let action_of = |k: Kind| job.plan.actions.get(k as usize).copied().unwrap_or(Action::Mask);
        let strictest = self.found.iter().max_by_key(|f| action_of(f.kind).rank());
        let Some((kind, action)) = strictest.map(|f| (f.kind, action_of(f.kind))) else { return Ok(()) };
        if action == Action::DropEvent {
            return Err(Refused);
        }
        if action == Action::Drop {
            edits.push(Change { place, edit: Edit::Drop, kind: Some(kind), action });
            return Ok(());
        }
        let mut out = String::with_capacity(text.len() + 16);
        let mut done = 0;
        for f in &self.found {
            // findings are cut at character borders; were one not, the whole value goes
            let (Some(before), Some(value)) = (text.get(done..f.start), text.get(f.start..f.end)) else {
                out.clear();
                let _ = write!(out, "<{}>", f.kind.as_str());
                done = text.len();
                break;
            };
            out.push_str(before);
            replace(job.policy, &mut out, f.kind, action_of(f.kind), value, time);
            done = f.end;
        }
        out.push_str(text.get(done..).unwrap_or_default());
        edits.push(Change { place, edit: Edit::Replace(out), kind: Some(kind), action });
        Ok(())
    }

    /// The strictest finding in binary data, read as 8 and as 16 bit characters.
    fn in_bytes(&mut self, job: &Job<'_>, bytes: &[u8]) -> Option<(Kind, Action)> {
        let action_of = |k: Kind| job.plan.actions.get(k as usize).copied().unwrap_or(Action::Mask);
        if bytes.len() < 4 || job.plan.wanted == 0 {
            return None;
        }
        self.found.clear();
        let mut text = std::mem::take(&mut self.text);
        let printable = |b: u8| (0x20..0x7f).contains(&b);
        for (wide, start) in [(false, 0), (true, 0), (true, 1)] {
            let data = bytes.get(start..).unwrap_or_default();
            // 16 bit text has zeros in every other place
            if wide && !data.windows(4).any(|w| matches!(w, [a, 0, b, 0] if printable(*a) && printable(*b))) {
                continue;
            }
            text.clear();
            if wide {
                text.extend(data.chunks_exact(2).map(|c| match c {
                    [b, 0] if printable(*b) => char::from(*b),
                    _ => '\n',
                }));
            } else {
                text.extend(data.iter().map(|b| if printable(*b) { char::from(*b) } else { '\n' }));
            }
            self.finder.find(&text, job.plan.wanted, &mut self.hits, &mut self.found);
            if !self.found.is_empty() {
                break;
            }
        }
        self.text = text;
        self.found.iter().map(|f| (f.kind, action_of(f.kind))).max_by_key(|(_, a)| a.rank())
    }
}

/// Writes what stands in the place of a finding.
fn replace(policy: &Policy, out: &mut String, kind: Kind, action: Action, value: &str, time: i64) {
    match (action, &policy.key) {
        (Action::Keep, _) => out.push_str(value),
        (Action::Pseudonym, Some(key)) => key.write(out, kind, value.as_bytes(), time),
        (Action::Generalise, _) if numbers::generalise(out, kind, value) => {}
        _ => {
            let _ = write!(out, "<{}>", kind.as_str());
        }
    }
}

/// Accounts of domains, machines and cloud directories; not the well-known groups.
fn names_a_person(sid: &[u8]) -> bool {
    matches!(sid, [_, _, _, _, _, _, _, 5, 21, 0, 0, 0, ..] | [_, _, _, _, _, _, _, 12, 1, 0, 0, 0, ..])
}

fn address(value: ValueRef<'_>) -> Option<IpAddr> {
    match value {
        ValueRef::Ipv4(b) => Some(IpAddr::V4(Ipv4Addr::from(b))),
        ValueRef::Ipv6(b) => Some(IpAddr::V6(Ipv6Addr::from(b))),
        ValueRef::SockAddr([2, 0, _, _, a, b, c, d, ..]) => Some(IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d))),
        // 23 on Windows, 10 on Linux
        ValueRef::SockAddr([23 | 10, 0, _, _, _, _, _, _, rest @ ..]) => {
            let bytes: [u8; 16] = rest.get(..16)?.try_into().ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

/// The value as text; `false` when there is nothing to hide: no value, or a
/// number where the kind is never one.
fn write_value(out: &mut String, value: ValueRef<'_>, kind: Kind) -> bool {
    let numeric = matches!(kind, Kind::Card | Kind::Phone | Kind::Gps | Kind::Ip | Kind::Tagged);
    match value {
        ValueRef::Str(s) => {
            out.push_str(s);
            !s.trim().is_empty()
        }
        ValueRef::Bytes(b) | ValueRef::Sid(b) => {
            b.iter().try_for_each(|b| write!(out, "{b:02x}")).is_ok() && !b.is_empty()
        }
        ValueRef::Ipv4(_) | ValueRef::Ipv6(_) | ValueRef::SockAddr(_) => match (address(value), value) {
            (Some(a), _) => write!(out, "{a}").is_ok(),
            (None, ValueRef::SockAddr(b)) => b.iter().try_for_each(|b| write!(out, "{b:02x}")).is_ok(),
            (None, _) => false,
        },
        ValueRef::Enum { label, .. } => write!(out, "{label}").is_ok() && numeric,
        ValueRef::Guid(g) => {
            out.push_str(&tidegate_proto::guid::format(&g));
            g != [0; 16]
        }
        ValueRef::Null | ValueRef::Struct(_) | ValueRef::Array(_) => false,
        ValueRef::I8(n) => write!(out, "{n}").is_ok() && numeric,
        ValueRef::I16(n) => write!(out, "{n}").is_ok() && numeric,
        ValueRef::I32(n) => write!(out, "{n}").is_ok() && numeric,
        ValueRef::I64(n) => write!(out, "{n}").is_ok() && numeric,
        ValueRef::U8(n) => write!(out, "{n}").is_ok() && numeric,
        ValueRef::U16(n) => write!(out, "{n}").is_ok() && numeric,
        ValueRef::U32(n) => write!(out, "{n}").is_ok() && numeric,
        ValueRef::U64(n) | ValueRef::FileTime(n) | ValueRef::Pointer(n) => {
            write!(out, "{n}").is_ok() && numeric
        }
        ValueRef::F32(n) => write!(out, "{n}").is_ok() && numeric,
        ValueRef::F64(n) => write!(out, "{n}").is_ok() && numeric,
        ValueRef::Bool(b) => write!(out, "{b}").is_ok() && kind == Kind::Tagged,
        ValueRef::SystemTime(t) => write!(out, "{t:?}").is_ok() && kind == Kind::Tagged,
    }
}
