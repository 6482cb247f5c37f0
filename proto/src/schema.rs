//! What is constant for one kind of event, shared between its events.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What turned the payload into fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Decoder {
    /// Nothing: the payload is kept raw.
    #[default]
    None = 0,
    /// TraceLogging metadata in the event.
    TraceLogging = 1,
    /// A .NET EventSource manifest carried in the trace.
    EventSource = 2,
    /// A schema embedded in a merged trace.
    Embedded = 3,
    /// An instrumentation manifest given by the user, or the system's own.
    Manifest = 4,
    /// A known layout of a classic kernel class.
    Kernel = 5,
    /// A WPP message: header decoded, arguments raw.
    Wpp = 6,
    /// A JSON object.
    Json = 7,
    /// One of Tidegate's own events.
    Own = 8,
    /// The synthetic source.
    Synthetic = 9,
}

impl Decoder {
    const ALL: [Decoder; 10] = [
        Self::None,
        Self::TraceLogging,
        Self::EventSource,
        Self::Embedded,
        Self::Manifest,
        Self::Kernel,
        Self::Wpp,
        Self::Json,
        Self::Own,
        Self::Synthetic,
    ];

    /// The decoder of a stored number; unknown numbers read as [`Decoder::None`].
    #[must_use]
    pub fn from_u32(n: u32) -> Decoder {
        usize::try_from(n).ok().and_then(|n| Self::ALL.get(n).copied()).unwrap_or_default()
    }

    /// The decoder with a label.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Decoder> {
        Self::ALL.into_iter().find(|d| d.as_str() == label)
    }

    /// Its label in coverage tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "raw",
            Self::TraceLogging => "tracelogging",
            Self::EventSource => "eventsource",
            Self::Embedded => "embedded",
            Self::Manifest => "manifest",
            Self::Kernel => "kernel",
            Self::Wpp => "wpp",
            Self::Json => "json",
            Self::Own => "own",
            Self::Synthetic => "synthetic",
        }
    }
}

/// A field's name and its ETW field tags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldDef {
    /// The name as the provider wrote it; names may repeat in one schema.
    pub name: String,
    /// TraceLogging field tags, 28 bits; 0 = none.
    pub tags: u32,
}

/// The contents of a [`Schema`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SchemaParts {
    /// Provider name; empty when nothing in the input tells it.
    pub provider_name: String,
    /// Provider (or event class) GUID, fields 1-3 little-endian as ETW keeps them.
    pub provider_guid: [u8; 16],
    /// Provider group, if the provider has the trait.
    pub group_guid: Option<[u8; 16]>,
    /// Event name; empty when nothing tells it.
    pub event_name: String,
    /// TraceLogging event tags, 28 bits.
    pub event_tags: u32,
    /// Task name, if a schema tells it.
    pub task_name: String,
    /// Opcode name, if a schema tells it.
    pub opcode_name: String,
    /// Message template, if a schema tells it.
    pub message: String,
    /// What decodes the payload.
    pub decoder: Decoder,
    /// All fields of the payload, nested ones included, in order.
    pub fields: Vec<FieldDef>,
}

/// One kind of event. Immutable; compare by [`Schema::id`] on hot paths.
#[derive(Debug)]
pub struct Schema {
    id: u64,
    parts: SchemaParts,
}

impl Schema {
    /// Makes a schema with an id that no other schema of this process has.
    #[must_use]
    pub fn new(parts: SchemaParts) -> Arc<Schema> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Schema { id: NEXT.fetch_add(1, Ordering::Relaxed), parts })
    }

    /// Unique in this process, never reused.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl std::ops::Deref for Schema {
    type Target = SchemaParts;
    fn deref(&self) -> &SchemaParts {
        &self.parts
    }
}
