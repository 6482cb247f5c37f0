//! Parquet: the envelope in typed columns, the payload as JSON.
//!
//! | column | type | |
//! |---|---|---|
//! | `seq` | uint64 | place in the ring |
//! | `time` | timestamp, ns, UTC | |
//! | `provider`, `guid`, `event` | string | null where unknown |
//! | `id`, `version`, `level`, `opcode`, `channel`, `task` | uint | `level` is the ETW level |
//! | `keyword`, `priv_tags` | uint64 | |
//! | `pid`, `tid`, `cpu` | uint32 | null where unknown |
//! | `activity`, `related` | string | GUIDs; null = none |
//! | `telemetry_level` | string | |
//! | `opcode_name`, `task_name`, `message`, `decoder` | string | |
//! | `fields`, `ext` | JSON | as in the JSON Lines |
//! | `raw` | binary | the payload that no schema explained |
//! | `sample_ppm` | uint32 | of a million such events so many were kept; null = all |
//!
//! Columns are only ever added, at the end. Written with the low-level interface: neither Arrow
//! nor reflection is needed for a fixed table.

mod lines;

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tidegate_proto::batch::{EventRef, NO_CPU, NO_ID};
use tidegate_proto::ids::Seq;
use tidegate_proto::level::TelemetryLevel;
use tidegate_proto::schema::Schema;
use tidegate_proto::{guid, json};

pub use self::lines::lines;
use super::Compression;

/// A row group ends at so many rows …
const ROWS: usize = 64 << 10;
/// … or at so many bytes of text and binary.
const BYTES: usize = 32 << 20;
/// Kinds of events whose names are kept ready; more of them in one row group begin anew.
const KINDS: usize = 4096;

const SCHEMA: &str = "message tidegate {
    required int64 seq (INTEGER(64,false));
    required int64 time (TIMESTAMP(NANOS,true));
    optional binary provider (STRING);
    optional binary guid (STRING);
    optional binary event (STRING);
    required int32 id (INTEGER(16,false));
    required int32 version (INTEGER(8,false));
    required int32 level (INTEGER(8,false));
    required int32 opcode (INTEGER(8,false));
    required int32 channel (INTEGER(8,false));
    required int32 task (INTEGER(16,false));
    required int64 keyword (INTEGER(64,false));
    required int64 priv_tags (INTEGER(64,false));
    optional int32 pid (INTEGER(32,false));
    optional int32 tid (INTEGER(32,false));
    optional int32 cpu (INTEGER(32,false));
    optional binary activity (STRING);
    optional binary related (STRING);
    optional binary telemetry_level (STRING);
    optional binary opcode_name (STRING);
    optional binary task_name (STRING);
    optional binary message (STRING);
    required binary decoder (STRING);
    required binary fields (JSON);
    optional binary ext (JSON);
    optional binary raw;
    optional int32 sample_ppm (INTEGER(32,false));
}";

/// A column's values: those that are there, and for optional ones which rows have one.
enum Column {
    Long(Vec<i64>),
    Int(Vec<i32>),
    MaybeInt(Vec<i32>, Vec<i16>),
    Bytes(Vec<ByteArray>),
    MaybeBytes(Vec<ByteArray>, Vec<i16>),
}

impl Column {
    fn clear(&mut self) {
        match self {
            Column::Long(v) => v.clear(),
            Column::Int(v) => v.clear(),
            Column::MaybeInt(v, there) => {
                v.clear();
                there.clear();
            }
            Column::Bytes(v) => v.clear(),
            Column::MaybeBytes(v, there) => {
                v.clear();
                there.clear();
            }
        }
    }
}

/// One row's values in the order of the schema.
enum Cell {
    Long(i64),
    Int(i32),
    MaybeInt(Option<i32>),
    Bytes(ByteArray),
    MaybeBytes(Option<ByteArray>),
}

/// What is the same in all rows of one kind of event, so that the rows share it.
struct Kind {
    /// Keeps the schema's number from being another's.
    _schema: Arc<Schema>,
    provider: Option<ByteArray>,
    guid: Option<ByteArray>,
    event: Option<ByteArray>,
    opcode: Option<ByteArray>,
    task: Option<ByteArray>,
    message: Option<ByteArray>,
    decoder: ByteArray,
}

impl Kind {
    fn of(schema: &Arc<Schema>) -> Kind {
        Kind {
            _schema: Arc::clone(schema),
            provider: text(&schema.provider_name),
            guid: id(&schema.provider_guid),
            event: text(&schema.event_name),
            opcode: text(&schema.opcode_name),
            task: text(&schema.task_name),
            message: text(&schema.message),
            decoder: ByteArray::from(schema.decoder.as_str()),
        }
    }
}

/// Writes events as a Parquet file, in row groups, so that memory does not grow with the number of
/// events but by what the file's footer says of each group (some kilobytes). A group takes up to
/// 65,536 events or 32 MiB of text and binary, whichever is less.
pub struct Rows<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<Column>,
    kinds: HashMap<u64, Kind>,
    rows: usize,
    bytes: usize,
    /// Rows of a group.
    most: usize,
}

impl<W: Write + Send> std::fmt::Debug for Rows<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rows({} in this group)", self.rows)
    }
}

fn failed(error: parquet::errors::ParquetError) -> io::Error {
    io::Error::other(error)
}

fn mismatch() -> io::Error {
    io::Error::other("the row does not fit the schema")
}

/// Text that is there unless it is empty.
fn text(value: &str) -> Option<ByteArray> {
    (!value.is_empty()).then(|| ByteArray::from(value))
}

fn id(value: &[u8; 16]) -> Option<ByteArray> {
    (*value != [0; 16]).then(|| {
        let mut out = Vec::with_capacity(36);
        guid::write(&mut out, value);
        out.into()
    })
}

fn known(value: u32) -> Cell {
    Cell::MaybeInt((value != NO_ID).then_some(value.cast_signed()))
}

fn row(seq: Seq, event: EventRef<'_>, kind: &Kind) -> [Cell; 27] {
    let head = event.head();
    let mut fields = Vec::new();
    json::write_fields(&mut fields, event.fields());
    let ext = event.ext().fields();
    let ext = ext.clone().next().map(|_| {
        let mut out = Vec::new();
        json::write_ext(&mut out, ext);
        out.into()
    });
    let level = head.telemetry_level.map_or("", TelemetryLevel::as_str);
    [
        Cell::Long(seq.0.cast_signed()),
        Cell::Long(head.time_ns),
        Cell::MaybeBytes(kind.provider.clone()),
        Cell::MaybeBytes(kind.guid.clone()),
        Cell::MaybeBytes(kind.event.clone()),
        Cell::Int(head.id.into()),
        Cell::Int(head.version.into()),
        Cell::Int(head.level.into()),
        Cell::Int(head.opcode.into()),
        Cell::Int(head.channel.into()),
        Cell::Int(head.task.into()),
        Cell::Long(head.keyword.cast_signed()),
        Cell::Long(head.priv_tags.cast_signed()),
        known(head.pid),
        known(head.tid),
        Cell::MaybeInt((head.cpu != NO_CPU).then_some(head.cpu.into())),
        Cell::MaybeBytes(id(&head.activity)),
        Cell::MaybeBytes(id(&head.related)),
        Cell::MaybeBytes(text(level)),
        Cell::MaybeBytes(kind.opcode.clone()),
        Cell::MaybeBytes(kind.task.clone()),
        Cell::MaybeBytes(kind.message.clone()),
        Cell::Bytes(kind.decoder.clone()),
        Cell::Bytes(fields.into()),
        Cell::MaybeBytes(ext),
        Cell::MaybeBytes((!event.raw().is_empty()).then(|| event.raw().to_vec().into())),
        Cell::MaybeInt((head.sample_ppm != 0).then_some(head.sample_ppm.cast_signed())),
    ]
}

impl<W: Write + Send> Rows<W> {
    /// Starts a file.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn new(out: W, compression: Compression) -> io::Result<Rows<W>> {
        Rows::with_groups(out, compression, ROWS)
    }

    pub(super) fn with_groups(out: W, compression: Compression, most: usize) -> io::Result<Rows<W>> {
        let codec = match compression {
            Compression::None => Codec::UNCOMPRESSED,
            Compression::Gzip => Codec::GZIP(GzipLevel::default()),
            Compression::Zstd => Codec::ZSTD(ZstdLevel::try_new(3).map_err(failed)?),
        };
        // constant: the same rows give the same bytes
        let properties =
            WriterProperties::builder().set_created_by("tidegate".to_owned()).set_compression(codec).build();
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(failed)?);
        let columns = schema
            .get_fields()
            .iter()
            .map(|field| {
                use parquet::basic::Type;
                match (field.get_physical_type(), field.is_optional()) {
                    (Type::INT64, _) => Column::Long(Vec::new()),
                    (Type::INT32, false) => Column::Int(Vec::new()),
                    (Type::INT32, true) => Column::MaybeInt(Vec::new(), Vec::new()),
                    (_, false) => Column::Bytes(Vec::new()),
                    (_, true) => Column::MaybeBytes(Vec::new(), Vec::new()),
                }
            })
            .collect();
        let writer = SerializedFileWriter::new(out, schema, Arc::new(properties)).map_err(failed)?;
        Ok(Rows { writer, columns, kinds: HashMap::new(), rows: 0, bytes: 0, most })
    }

    /// Adds one event with its place.
    ///
    /// # Errors
    /// When a row group is full and the output fails; the file is then of no use.
    pub fn push(&mut self, seq: Seq, event: EventRef<'_>) -> io::Result<()> {
        let schema = event.schema();
        if self.kinds.len() >= KINDS && !self.kinds.contains_key(&schema.id()) {
            self.kinds.clear();
        }
        let kind = self.kinds.entry(schema.id()).or_insert_with(|| Kind::of(schema));
        for (column, cell) in self.columns.iter_mut().zip(row(seq, event, kind)) {
            match (column, cell) {
                (Column::Long(v), Cell::Long(n)) => v.push(n),
                (Column::Int(v), Cell::Int(n)) => v.push(n),
                (Column::MaybeInt(v, there), Cell::MaybeInt(n)) => {
                    there.push(n.is_some().into());
                    v.extend(n);
                }
                (Column::Bytes(v), Cell::Bytes(b)) => {
                    self.bytes += b.len();
                    v.push(b);
                }
                (Column::MaybeBytes(v, there), Cell::MaybeBytes(b)) => {
                    self.bytes += b.as_ref().map_or(0, ByteArray::len);
                    there.push(b.is_some().into());
                    v.extend(b);
                }
                _ => return Err(mismatch()),
            }
        }
        self.rows += 1;
        if self.rows >= self.most || self.bytes >= BYTES { self.group() } else { Ok(()) }
    }

    fn group(&mut self) -> io::Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group().map_err(failed)?;
        for column in &mut self.columns {
            let mut to = group.next_column().map_err(failed)?.ok_or_else(mismatch)?;
            match column {
                Column::Long(v) => to.typed::<Int64Type>().write_batch(v, None, None),
                Column::Int(v) => to.typed::<Int32Type>().write_batch(v, None, None),
                Column::MaybeInt(v, there) => to.typed::<Int32Type>().write_batch(v, Some(there), None),
                Column::Bytes(v) => to.typed::<ByteArrayType>().write_batch(v, None, None),
                Column::MaybeBytes(v, there) => to.typed::<ByteArrayType>().write_batch(v, Some(there), None),
            }
            .map_err(failed)?;
            to.close().map_err(failed)?;
            column.clear();
        }
        group.close().map_err(failed)?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    /// Ends the file and gives the output back.
    ///
    /// # Errors
    /// When the output fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.group()?;
        self.writer.into_inner().map_err(failed)
    }
}
