//! Events as files in a folder: the sink that needs nothing else.
//!
//! Each delivery becomes one file, or one for each path of the template: how large and how old
//! a file gets is what `[….batch]` says. A file is written beside its place, synced, and renamed
//! into it; then the folder is synced. So what has its final name is whole. A batch that comes
//! again makes the same names: a file that holds the same events is left as it is, another one
//! (the rules have changed since) is replaced, in one step.
//!
//! With `max_total` the oldest files give way to new ones; nothing but files that this sink has
//! named are counted or removed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tidegate_proto::hex;
use tidegate_proto::ids::SinkId;

use crate::format::{Compression, Format};
use crate::holdings::{Deletion, Fetched, Held, Holdings, ListError, Listing};
use crate::layout::{Layout, LayoutError, Named, Part};
use crate::limits::{BatchConfig, LimitError};
use crate::units::Size;
use crate::{BatchLimits, BoxFuture, DeliverError, Delivered, Object, Ready, Sink, SinkBatch, Staged};

/// Names of files that are not finished end in this.
const UNFINISHED: &str = ".part";
/// Younger ones may be another process's, still at work.
const UNFINISHED_AGE: Duration = Duration::from_secs(3600);
/// Folders below the sink's own that are looked into.
const DEPTH_MAX: usize = 16;

/// `type = "directory"`
///
/// ```toml
/// [sinks.local]
/// type = "directory"
/// path = "/var/lib/tidegate/out"
/// layout = "dt={date}"
/// format = "jsonl"
/// compression = "zstd"
/// max_total = "4GiB"
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryConfig {
    /// `path`: the folder; made when it is not there.
    pub path: PathBuf,
    /// `layout`: folders below it, with `{host}`, `{stream}`, `{level}`, `{provider}`, `{date}`
    /// and `{hour}` (of the events, UTC). Default: none.
    #[serde(default)]
    pub layout: String,
    /// `format`: `jsonl` (default), `capture` or `parquet`.
    #[serde(default)]
    pub format: Format,
    /// `compression`: `none` (default), `gzip` or `zstd`.
    #[serde(default = "uncompressed")]
    pub compression: Compression,
    /// `max_total`: bytes of all files together; the oldest are removed. Default: no bound.
    #[serde(default)]
    pub max_total: Option<Size>,
    /// `[….batch]`. Defaults: 100,000 events, 16 MiB, 10 s.
    #[serde(default)]
    pub batch: BatchConfig,
}

fn uncompressed() -> Compression {
    Compression::None
}

/// Why the sink cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The template.
    #[error("layout")]
    Layout(#[from] LayoutError),
    /// A limit.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// See the module.
#[derive(Debug)]
pub struct DirectorySink {
    id: SinkId,
    root: PathBuf,
    layout: Layout,
    limits: BatchLimits,
    max_total: Option<u64>,
    swept: AtomicBool,
}

impl DirectorySink {
    /// A sink to a folder. Touches nothing yet.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(id: &SinkId, config: &DirectoryConfig) -> Result<DirectorySink, DirectoryError> {
        let own = BatchLimits {
            events: 100_000,
            bytes: 16 << 20,
            age: Duration::from_secs(10),
            in_flight: 1,
            timeout: Duration::from_secs(300),
        };
        Ok(DirectorySink {
            id: id.clone(),
            root: config.path.clone(),
            layout: Layout::new(&config.layout, config.format, config.compression)?,
            limits: config.batch.over(own)?,
            max_total: config.max_total.map(|s| s.0),
            swept: AtomicBool::new(false),
        })
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn list_now(&self, what: &Listing, each: &mut dyn FnMut(Held)) -> Result<(), ListError> {
        let prefix = what.of.as_ref().map(|(host, stream)| self.layout.prefix(host, stream));
        let mut folders = vec![(self.root.clone(), 0)];
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ListError::Read { path, source }
        };
        while let Some((folder, depth)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                // nothing was delivered yet
                Err(e) if e.kind() == io::ErrorKind::NotFound && depth == 0 => return Ok(()),
                other => other.map_err(failed(&folder))?,
            };
            for entry in entries {
                let entry = entry.map_err(failed(&folder))?;
                let path = entry.path();
                let kind = entry.file_type().map_err(failed(&path))?;
                if kind.is_dir() && depth < DEPTH_MAX {
                    folders.push((path, depth + 1));
                    continue;
                }
                let below = path.strip_prefix(&self.root).unwrap_or(&path);
                let parts: Vec<_> = below.iter().map(OsStr::to_string_lossy).collect();
                let name = parts.join("/");
                let wanted = prefix.as_deref().is_none_or(|p| name.starts_with(p));
                if !kind.is_file() || !wanted || name.ends_with(UNFINISHED) {
                    continue;
                }
                let len = entry.metadata().map_err(failed(&path))?.len();
                let sha256 = if what.read {
                    let mut digest = Sha256::new();
                    File::open(&path)
                        .and_then(|mut f| io::copy(&mut f, &mut digest))
                        .map_err(failed(&path))?;
                    Some(digest.finalize().into())
                } else {
                    None
                };
                let destination = path.to_string_lossy().into_owned();
                each(Held { destination, name, len, sha256, writer: None });
            }
        }
        Ok(())
    }
}

/// A failure with the file it befell.
#[derive(Debug, thiserror::Error)]
#[error("{path}")]
struct At {
    path: PathBuf,
    source: io::Error,
    /// The sink's folder is sound: other batches may be written.
    alone: bool,
}

impl From<At> for DeliverError {
    fn from(at: At) -> DeliverError {
        use io::ErrorKind as K;
        let (kind, alone) = (at.source.kind(), at.alone);
        let (path, source) = (at.path.clone(), Box::new(at));
        match kind {
            K::PermissionDenied | K::ReadOnlyFilesystem => {
                let advice = "give the collector the right to write there".to_owned();
                DeliverError::Stop { after: None, advice, source }
            }
            K::NotADirectory | K::AlreadyExists | K::IsADirectory if alone => {
                let advice = format!("something else stands at {} or above it; move it away", path.display());
                DeliverError::Blocked { advice, source }
            }
            K::NotADirectory | K::AlreadyExists | K::IsADirectory => {
                let advice = "something else stands where the sink's folder belongs; move it away".to_owned();
                DeliverError::Stop { after: None, advice, source }
            }
            K::InvalidInput => DeliverError::Split { source },
            // a full disk too: room may come back by itself
            _ => DeliverError::Retry { after: None, source },
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> At + use<> {
    let path = path.to_owned();
    move |source| At { path, source, alone: false }
}

/// Makes a folder's entries durable. Windows has no such call and needs none.
fn sync_dir(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// Makes a folder and those above it, durable from `root`'s parent on.
fn make_dir(root: &Path, dir: &Path) -> Result<(), At> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(at(dir))?;
    for made in dir.ancestors() {
        if let Some(parent) = made.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_dir(parent).map_err(at(parent))?;
        }
        if made == root {
            break;
        }
    }
    Ok(())
}

fn holds(path: &Path, bytes: &Bytes, sha256: [u8; 32]) -> io::Result<bool> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
        Ok(m) if m.len() != bytes.len() as u64 => return Ok(false),
        Ok(_) => {}
    }
    let mut digest = Sha256::new();
    io::copy(&mut File::open(path)?, &mut digest)?;
    Ok(<[u8; 32]>::from(digest.finalize()) == sha256)
}

fn write(root: &Path, part: &Part) -> Result<Object, At> {
    let path = root.join(&part.name);
    let dir = path.parent().unwrap_or(root);
    make_dir(root, dir)?;
    let object = |found| Object {
        destination: path.to_string_lossy().into_owned(),
        sha256: part.encoded.sha256,
        len: part.encoded.bytes.len() as u64,
        events: part.encoded.events,
        server_id: String::new(),
        found,
    };
    if holds(&path, &part.encoded.bytes, part.encoded.sha256).map_err(at(&path))? {
        // the attempt that wrote it may have ended before this
        sync_dir(dir).map_err(at(dir))?;
        return Ok(object(true));
    }
    // random, so that two attempts at a time do not write into one file
    let beside = temporary(&path);
    let result = (|| {
        let mut file = File::create_new(&beside)?;
        file.write_all(&part.encoded.bytes)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&beside, &path)?;
        sync_dir(dir)
    })();
    if let Err(source) = result {
        // may not have been made
        let _ = fs::remove_file(&beside);
        return Err(at(&path)(source));
    }
    Ok(object(false))
}

fn temporary(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or(OsStr::new("file")).to_owned();
    name.push(format!(".{}-{n}{UNFINISHED}", std::process::id()));
    path.with_file_name(name)
}

/// Whether a name is one of ours: `first-last-tag.suffix`, finished or not.
fn is_ours(name: &OsStr) -> bool {
    name.to_str().and_then(Named::parse).is_some()
}

struct Kept {
    path: PathBuf,
    len: u64,
    at: SystemTime,
}

fn ours(dir: &Path, depth: usize, found: &mut Vec<Kept>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth < DEPTH_MAX {
            ours(&entry.path(), depth + 1, found)?;
        } else if kind.is_file() && is_ours(&entry.file_name()) {
            // it may be gone by now
            if let Ok(m) = entry.metadata() {
                found.push(Kept { path: entry.path(), len: m.len(), at: m.modified()? });
            }
        }
    }
    Ok(())
}

/// Removes what a crash has left unfinished an hour ago or earlier.
fn sweep(root: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    match ours(root, 0, &mut files) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    for file in files {
        let old = file.at.elapsed().is_ok_and(|age| age > UNFINISHED_AGE);
        if old && file.path.to_string_lossy().ends_with(UNFINISHED) {
            fs::remove_file(&file.path)?;
        }
    }
    Ok(())
}

/// Removes the oldest files until the rest fits; those of this delivery stay.
fn bound(root: &Path, max: u64, just: &[Object]) -> io::Result<()> {
    let mut files = Vec::new();
    ours(root, 0, &mut files)?;
    let mut total: u64 = files.iter().map(|f| f.len).sum();
    files.sort_by(|a, b| (a.at, &a.path).cmp(&(b.at, &b.path)));
    let mut removed = 0_u64;
    for file in files {
        if total <= max {
            break;
        }
        if just.iter().any(|o| Path::new(&o.destination) == file.path) {
            continue;
        }
        fs::remove_file(&file.path)?;
        total -= file.len;
        removed += 1;
    }
    if removed > 0 {
        tracing::info!(files = removed, "removed the oldest files, to keep max_total");
    }
    Ok(())
}

impl Sink for DirectorySink {
    fn id(&self) -> &SinkId {
        &self.id
    }

    fn limits(&self) -> BatchLimits {
        self.limits
    }

    fn check(&self) -> BoxFuture<'_, Result<(), DeliverError>> {
        let root = self.root.clone();
        blocking(move || {
            make_dir(&root, &root)?;
            let probe = temporary(&root.join("check"));
            File::create_new(&probe).and_then(|_| fs::remove_file(&probe)).map_err(at(&probe))
        })
    }

    fn deliver<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(async move { self.send(&self.encode(batch).await?).await })
    }

    fn staged(&self) -> Option<&dyn Staged> {
        Some(self)
    }
}

impl Staged for DirectorySink {
    fn encode<'a>(&'a self, batch: &'a SinkBatch) -> BoxFuture<'a, Result<Ready, DeliverError>> {
        Box::pin(async move {
            let parts = self.layout.parts(batch).await.map_err(at(&self.root))?;
            Ok(Ready::new(batch, parts))
        })
    }

    fn send<'a>(&'a self, ready: &'a Ready) -> BoxFuture<'a, Result<Delivered, DeliverError>> {
        Box::pin(async move {
            // their bytes are shared, not copied
            let (parts, root, max_total) = (ready.parts.clone(), self.root.clone(), self.max_total);
            let first = !self.swept.swap(true, Ordering::Relaxed);
            blocking(move || {
                if first && let Err(error) = sweep(&root) {
                    tracing::warn!(folder = %root.display(), %error, "cannot remove unfinished files");
                }
                let mut done = Delivered::default();
                for part in &parts {
                    let object = write(&root, part).map_err(|e| At { alone: root.is_dir(), ..e })?;
                    done.bytes += if object.found { 0 } else { object.len };
                    done.objects.push(object);
                }
                if let Some(max) = max_total {
                    // the batch is safe; a bound that cannot be kept now is kept by the next one
                    if let Err(error) = bound(&root, max, &done.objects) {
                        tracing::warn!(folder = %root.display(), %error, "cannot remove old files");
                    }
                }
                Ok(done)
            })
            .await
        })
    }
}

impl Holdings for DirectorySink {
    fn base(&self) -> String {
        self.root.join("").to_string_lossy().into_owned()
    }

    fn list<'a>(
        &'a self,
        what: &'a Listing,
        each: &'a mut (dyn FnMut(Held) + Send),
    ) -> BoxFuture<'a, Result<(), ListError>> {
        Box::pin(async move { self.list_now(what, each) })
    }

    fn is_here(&self, destination: &str) -> bool {
        let path = Path::new(destination);
        let plain = path.components().all(|c| !matches!(c, std::path::Component::ParentDir));
        plain && path.starts_with(&self.root) && path.file_name().is_some_and(is_ours)
    }

    fn fetch<'a>(&'a self, destination: &'a str) -> BoxFuture<'a, Result<Option<Fetched>, DeliverError>> {
        let (path, here) = (PathBuf::from(destination), self.is_here(destination));
        blocking(move || {
            let refused = |what| at(&path)(io::Error::other(what));
            if !here {
                return Err(refused("is not in this sink's folder"));
            }
            let mut file = match File::open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other.map_err(at(&path))?,
            };
            if file.metadata().map_err(at(&path))?.len() > Fetched::MAX_BYTES {
                return Err(refused("is too large to be looked into"));
            }
            let mut bytes = Vec::new();
            io::Read::take(&mut file, Fetched::MAX_BYTES).read_to_end(&mut bytes).map_err(at(&path))?;
            let destination = path.to_string_lossy().into_owned();
            let etag = hex::encode(&Sha256::digest(&bytes));
            Ok(Some(Fetched { destination, bytes: bytes.into(), etag }))
        })
    }

    fn delete<'a>(&'a self, held: &'a Fetched) -> BoxFuture<'a, Result<Deletion, DeliverError>> {
        let (path, bytes, here) =
            (PathBuf::from(&held.destination), held.bytes.clone(), self.is_here(&held.destination));
        blocking(move || {
            if !here {
                return Ok(Deletion::Changed);
            }
            if !path.exists() {
                return Ok(Deletion::Gone);
            }
            let digest = Sha256::digest(&bytes).into();
            if !holds(&path, &bytes, digest).map_err(at(&path))? {
                return Ok(Deletion::Changed);
            }
            fs::remove_file(&path).map_err(at(&path))?;
            if let Some(dir) = path.parent() {
                sync_dir(dir).map_err(at(dir))?;
            }
            Ok(Deletion::Done)
        })
    }
}

fn blocking<'a, T: Send + 'static>(
    work: impl FnOnce() -> Result<T, At> + Send + 'static,
) -> BoxFuture<'a, Result<T, DeliverError>> {
    let task = tokio::task::spawn_blocking(work);
    Box::pin(async move {
        match task.await {
            Ok(result) => result.map_err(DeliverError::from),
            Err(e) => Err(DeliverError::Retry { after: None, source: Box::new(e) }),
        }
    })
}

#[cfg(test)]
mod tests;
