//! Following a file that grows, through its rotation.
//!
//! Which file it is, is told by a hash of its first bytes: so it is found again under another
//! name, on another volume, even compressed. While it is open the system's own identity of
//! it shows a rename at once.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tidegate_proto::own::Gap;

use super::event::Mapper;
use super::lines::Place;
use super::{JsonlConfig, JsonlInput, open_at};
use crate::content;
use crate::feed::{Feed, Halt};
use crate::position::Position;

/// Looks without growth after which a renamed file is taken for finished: its writer has
/// time to open the new one.
const QUIET: u32 = 3;
/// Rotated files looked through at most.
const SIBLINGS: usize = 1000;

/// A file's identity while it is there.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

#[cfg(unix)]
fn identity(meta: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    Identity(meta.dev(), meta.ino())
}

#[cfg(windows)]
fn identity(meta: &Metadata) -> Identity {
    use std::os::windows::fs::MetadataExt as _;
    Identity(0, meta.creation_time())
}

#[cfg(not(any(unix, windows)))]
fn identity(_: &Metadata) -> Identity {
    Identity(0, 0)
}

/// A file that is not there is none; another failure is one.
fn look(path: &Path) -> Result<Option<Metadata>, Halt> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Halt::io(path, e)),
    }
}

/// What became of the followed file since the last look.
enum Change {
    None,
    Renamed,
    Rewritten,
}

pub(super) fn follow(
    feed: &mut Feed,
    config: &JsonlConfig,
    mut mapper: Mapper,
    position: Option<Position>,
) -> Result<(), Halt> {
    let Some(path) = config.paths.first() else { return Ok(()) };
    let poll = Duration::from_millis(config.poll_ms);
    let mut resume = None;
    if let Some(position) = position {
        mapper = catch_up(feed, config, path, position, mapper, &mut resume)?;
    }
    let mut told = false;
    loop {
        let Some(meta) = look(path)? else {
            if !told {
                tracing::info!(path = %path.display(), "waiting for the file to be made");
                told = true;
            }
            feed.wait(poll)?;
            continue;
        };
        let id = identity(&meta);
        // around the opening the file can be replaced, or gone again
        let mut input = match JsonlInput::open(feed, config, path, Position::new(), resume, mapper) {
            Ok(input) if look(path)?.is_none_or(|meta| identity(&meta) != id) => {
                mapper = input.mapper;
                continue;
            }
            Ok(input) => input,
            Err((_, returned)) if look(path)?.is_none() => {
                mapper = *returned;
                continue;
            }
            Err((halt, _)) => return Err(halt),
        };
        resume = None;
        follow_one(feed, path, id, poll, &mut input)?;
        mapper = input.mapper;
    }
}

/// Follows one file until another stands in its place.
fn follow_one(
    feed: &mut Feed,
    path: &Path,
    id: Identity,
    poll: Duration,
    input: &mut JsonlInput,
) -> Result<(), Halt> {
    let mut quiet = 0;
    let mut changed = Change::None;
    loop {
        let before = input.lines.place().at + input.lines.partial();
        if !matches!(changed, Change::Rewritten) {
            input.pump_more(feed, false)?;
        }
        let grown = input.lines.place().at + input.lines.partial() > before;
        match changed {
            Change::Renamed if grown => quiet = 0,
            Change::Renamed => {
                quiet += 1;
                if quiet >= QUIET && look(path)?.is_some() {
                    return input.pump_more(feed, true);
                }
            }
            Change::Rewritten => {
                let partial = input.lines.partial();
                let gap = Gap {
                    origin: input.path.clone(),
                    reason: "truncated".to_owned(),
                    events: None,
                    detail: format!(
                        "the file was truncated; {partial} bytes of a line without end and what was \
                         written since the last look are lost"
                    ),
                    offset: Some(input.lines.place().at),
                    time_ns: input.mapper.last_ns(),
                };
                return feed.gap(&gap, Position { time_ns: gap.time_ns, ..Position::new() });
            }
            Change::None => {}
        }
        feed.wait(poll)?;
        if matches!(changed, Change::None) {
            changed = change(path, id, input)?;
        }
    }
}

fn change(path: &Path, id: Identity, input: &mut JsonlInput) -> Result<Change, Halt> {
    let Some(meta) = look(path)? else { return Ok(Change::Renamed) };
    if identity(&meta) != id {
        return Ok(Change::Renamed);
    }
    let place = input.lines.place();
    if input.compressed {
        return Ok(Change::None);
    }
    let read = place.at + input.lines.partial();
    if meta.len() < read {
        return Ok(Change::Rewritten);
    }
    if meta.len() > read && place.printed > 0 {
        // gone in between: the next look tells
        let print = content::print(path, place.printed).unwrap_or(Some(place.print.finish()));
        if print != Some(place.print.finish()) {
            return Ok(Change::Rewritten);
        }
    }
    Ok(Change::None)
}

/// Reads what is left of files that were rotated since the position was stored; sets the
/// place in the current file, if the position is in it.
fn catch_up(
    feed: &mut Feed,
    config: &JsonlConfig,
    path: &Path,
    position: Position,
    mut mapper: Mapper,
    resume: &mut Option<Position>,
) -> Result<Mapper, Halt> {
    let is = |path: &Path| matches!(open_at(path, Place::of(position), &feed.token()), Ok(Some(_)));
    if is(path) {
        *resume = Some(position);
        return Ok(mapper);
    }
    let files = rotated(path);
    let Some(n) = files.iter().rposition(|f| is(f)) else {
        if position.at > 0 {
            let gap = Gap {
                origin: path.display().to_string(),
                reason: "position_lost".to_owned(),
                events: None,
                detail: "the file that was read last is not found any more; its rest is lost".to_owned(),
                offset: Some(position.at),
                time_ns: position.time_ns,
            };
            feed.gap(&gap, Position { time_ns: position.time_ns, ..Position::new() })?;
        }
        return Ok(mapper);
    };
    let mut first = Some(position);
    for file in files.iter().skip(n) {
        let input = JsonlInput::open(feed, config, file, Position::new(), first.take(), mapper);
        mapper = input.map_err(|(halt, _)| halt)?.pump(feed)?;
    }
    Ok(mapper)
}

/// Files that the followed one was renamed to before, oldest first: its name with a dot or
/// dash and a number or date behind it.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let Some(name) = path.file_name().map(|n| n.as_encoded_bytes().to_vec()) else { return Vec::new() };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let rest = file.as_encoded_bytes().strip_prefix(name.as_slice());
        if let Some([b'.' | b'-', b'0'..=b'9', ..]) = rest
            && let Ok(meta) = entry.metadata()
            && meta.is_file()
            && found.len() < SIBLINGS
        {
            found.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), entry.path()));
        }
    }
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}
