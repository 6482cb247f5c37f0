//! The tidegate program; all of it is in [`tidegate::cli`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    tidegate::cli::main()
}
