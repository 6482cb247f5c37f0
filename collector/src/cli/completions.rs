//! Completion scripts and manual pages, made from the flags themselves.

use std::io::Write as _;
use std::path::PathBuf;

use clap::CommandFactory as _;

use super::exit::{Done, Exit, Failure};
use super::{Cli, out};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whose script.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tidegate", &mut script);
    print(&script)
}

#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Folder for one page per command; without it the main page goes to standard output.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn man(args: &ManArgs) -> Done {
    let Some(dir) = &args.out else {
        return print(&page(Cli::command())?);
    };
    let cannot = |e: std::io::Error| {
        Failure::new(Exit::CantCreate, format!("cannot write pages to {}: {e}", dir.display()))
            .hint("name a folder you may write to")
    };
    std::fs::create_dir_all(dir).map_err(cannot)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(cannot)?;
    Ok(Exit::Ok)
}

fn page(command: clap::Command) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(|e| Failure::output(&e))?;
    Ok(page)
}

fn print(text: &[u8]) -> Done {
    let mut out = out::stdout();
    out.write_all(text).and_then(|()| out.flush()).map_err(|e| Failure::output(&e))?;
    Ok(Exit::Ok)
}
