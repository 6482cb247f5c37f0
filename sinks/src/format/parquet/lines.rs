//! Parquet files of ours read back as JSON Lines.

use std::io::{self, Write as _};

use bytes::Bytes;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::parser::parse_message_type;
use tidegate_proto::{json, time};

use super::{SCHEMA, failed};

/// The events of a file as JSON Lines, `most` bytes at most.
///
/// # Errors
/// A file that is damaged or has other columns than ours, or is larger than `most`.
pub fn lines(bytes: Bytes, most: u64) -> io::Result<Vec<u8>> {
    let file = SerializedFileReader::new(bytes).map_err(failed)?;
    let ours = parse_message_type(SCHEMA).map_err(failed)?;
    let theirs = file.metadata().file_metadata().schema().get_fields();
    // columns are only ever added, so an older file has fewer
    if theirs.len() > ours.get_fields().len() || theirs.iter().zip(ours.get_fields()).any(|(a, b)| a != b) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its columns are not those of this version"));
    }
    let mut out = Vec::new();
    for row in file.get_row_iter(None).map_err(failed)? {
        let row = row.map_err(failed)?;
        let mut sign = b'{';
        for (column, value) in row.get_column_iter() {
            member(&mut out, &mut sign, column, value)?;
        }
        out.extend_from_slice(b"}\n");
        if out.len() as u64 > most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too large to be looked into"));
        }
    }
    Ok(out)
}

fn member(out: &mut Vec<u8>, sign: &mut u8, column: &str, value: &Field) -> io::Result<()> {
    use base64::Engine as _;
    if matches!(value, Field::Null) {
        return Ok(());
    }
    let name = match column {
        "priv_tags" => "privTags",
        "telemetry_level" => "telemetryLevel",
        "opcode_name" => "opcodeName",
        "task_name" => "taskName",
        "sample_ppm" => "samplePpm",
        other => other,
    };
    out.push(*sign);
    *sign = b',';
    json::string(out, name);
    out.push(b':');
    match (column, value) {
        ("time", Field::Long(ns)) => json::string(out, &time::format_rfc3339(*ns)),
        ("keyword" | "priv_tags", Field::ULong(n)) => write!(out, "\"0x{n:x}\"")?,
        // JSON already
        ("fields" | "ext", Field::Str(text)) => out.extend_from_slice(text.as_bytes()),
        (_, Field::Str(text)) => json::string(out, text),
        (_, Field::Bytes(bytes)) => {
            json::string(out, &base64::engine::general_purpose::STANDARD.encode(bytes.data()));
        }
        (_, number) => write!(out, "{number}")?,
    }
    Ok(())
}
