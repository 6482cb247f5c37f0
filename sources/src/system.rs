//! Who explains events that carry no schema of their own.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tidegate_etl::SchemaSource;

use crate::source::SourceError;

/// Who explains events without a schema of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecoderChoice {
    /// Tidegate alone; the same on every machine.
    #[default]
    Own,
    /// The manifests and classes that are registered with this Windows, where Tidegate knows no
    /// schema.
    System,
}

impl FromStr for DecoderChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<DecoderChoice, String> {
        match text {
            "own" => Ok(DecoderChoice::Own),
            "system" => Ok(DecoderChoice::System),
            _ => Err("own or system is expected".to_owned()),
        }
    }
}

impl DecoderChoice {
    /// Whom to ask for schemas; nobody with [`DecoderChoice::Own`]. `name` is the source that wants
    /// it, for the error.
    ///
    /// # Errors
    /// [`SourceError::Unsupported`] away from Windows.
    pub fn schemas(self, name: &str) -> Result<Option<Box<dyn SchemaSource>>, SourceError> {
        match self {
            DecoderChoice::Own => Ok(None),
            DecoderChoice::System => system(name).map(Some),
        }
    }
}

#[cfg(not(windows))]
fn system(name: &str) -> Result<Box<dyn SchemaSource>, SourceError> {
    let needs = "Windows for the decoder \"system\", whose registered manifests it asks; elsewhere give the \
                 manifests (.man) themselves";
    Err(SourceError::Unsupported { name: name.to_owned(), needs: needs.to_owned() })
}

#[cfg(windows)]
#[allow(clippy::unnecessary_wraps)] // fails elsewhere
fn system(_: &str) -> Result<Box<dyn SchemaSource>, SourceError> {
    Ok(Box::new(crate::etw::windows::System))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_windows_can_be_asked_for_its_manifests() {
        assert!(DecoderChoice::Own.schemas("x").unwrap().is_none());
        let asked = "system".parse::<DecoderChoice>().unwrap().schemas("old");
        if cfg!(windows) {
            assert!(asked.unwrap().is_some());
        } else {
            let error = asked.unwrap_err().to_string();
            assert!(error.contains("\"old\" needs Windows") && error.contains(".man"), "{error}");
        }
        assert!("tdh".parse::<DecoderChoice>().unwrap_err().contains("own or system"));
    }
}
