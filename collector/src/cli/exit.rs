//! How the program ends.

use std::process::ExitCode;

/// What a command comes to.
pub(super) type Done = Result<Exit, Failure>;

/// Exit codes, those of `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    /// All was done.
    Ok = 0,
    /// Wrong flags or arguments.
    Usage = 64,
    /// The input is damaged, cut, no input of this kind, or of a newer version.
    Data = 65,
    /// The input is not there or may not be read.
    NoInput = 66,
    /// What a source listens to is not to be had, or another has it.
    Unavailable = 69,
    /// A defect of the program.
    Software = 70,
    /// The output cannot be made.
    CantCreate = 73,
    /// Reading or writing failed half way.
    Io = 74,
    /// Not all was done; doing it again later can work. Nothing is lost.
    TempFail = 75,
    /// This user may not do it.
    NoPermission = 77,
    /// The configuration cannot be used.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed: one line, what to do about it, the exit code.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: Exit,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(super) fn new(code: Exit, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), hint: None }
    }

    /// What the user can do.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Standard output failed. A reader that went away (`| head`) is no failure.
    pub(super) fn output(error: &std::io::Error) -> Failure {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Failure::new(Exit::Ok, "");
        }
        Failure::new(Exit::Io, format!("cannot write the output: {error}"))
            .hint("check that there is room on the disk")
    }

    pub(super) fn print(&self) {
        if self.message.is_empty() {
            return;
        }
        eprintln!("error: {}", self.message);
        if let Some(hint) = &self.hint {
            eprintln!("  help: {hint}");
        }
    }
}
