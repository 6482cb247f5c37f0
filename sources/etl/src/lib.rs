//! Event trace log (`.etl`) files, and the payload decoder that files and live
//! sessions share.
//!
//! A file is a chain of buffers, each of one CPU, holding records. Three views,
//! from cheap to complete:
//!
//! * [`EtlFile::walk`]: every record's header in file order, for counting
//!   ([`EtlFile::summary`] counts by kind of event);
//! * [`RecordReader`]: the records in time order, one buffer per CPU in memory;
//! * [`EventReader`]: the same, decoded into a [`tidegate_proto::batch::Batch`].
//!
//! Nothing here trusts the input. What cannot be read is a [`Problem`] that
//! names the place; the reader goes on with the next buffer. The crate opens
//! nothing itself: bytes come through [`ReadAt`].
#![forbid(unsafe_code)]

mod buffer;
mod bytes;
mod clock;
mod compress;
mod decode;
mod error;
mod events;
mod file;
mod header;
mod merge;
mod read_at;
mod record;
mod summary;

pub use buffer::BufferHeader;
pub use clock::Clock;
pub use compress::{CompressError, Compression};
pub use decode::{Coverage, EventSchema, ManifestError, PayloadDecoder, SchemaSource};
pub use error::{EtlError, Problem, Reason};
pub use events::EventReader;
pub use file::{EtlFile, Walk};
pub use header::TraceHeader;
pub use merge::RecordReader;
pub use read_at::ReadAt;
pub use record::{Ext, ExtItems, ExtKind, Identity, Record, RecordKind, Records};
pub use summary::{EventKind, Family, KindCount, Summary};
