//! A run of the collector seen from outside: progress, signals, the summary at its end.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tidegate_ring::{RingError, SledRing};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::exit::{Exit, Failure};
use super::out;
use super::unread::Reader;
use crate::api::remote::Remote;
use crate::api::{self, Api};
use crate::assemble::{self, AssembleError, Checked};
use crate::config::{ConfigError, RemoteControl};
use crate::control::Who;
use crate::dispatch::DispatchError;
use crate::pipeline::{Failed, Handle, Parts, Pipeline, Progress, StartError, Summary, Until};
use crate::purge::Places;
use crate::reload::Reloader;

/// How a run is shown.
#[derive(Debug, clap::Args)]
pub(super) struct Look {
    /// End with the summary as one JSON object.
    #[arg(long)]
    json: bool,
    /// No progress and no summary.
    #[arg(short, long)]
    quiet: bool,
}

/// When a run is over by itself.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ends {
    /// Never: it goes on until it is stopped.
    WhenStopped,
    /// When the sources have ended and all is delivered, or nothing could be for this long.
    WithInput(Duration),
}

/// What a run came to.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) exit: Exit,
    /// Everything that was read has found its place, or nobody wants it any more.
    pub(super) complete: bool,
}

/// How often it is tried whether a ring can be written again.
const WRITABLE: Duration = Duration::from_secs(5);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(200);

pub(super) fn config_failure(error: &ConfigError) -> Failure {
    Failure::new(Exit::Config, error.to_string()).hint("tidegate validate -c FILE checks without running")
}

pub(super) fn assemble_failure(error: &AssembleError) -> Failure {
    let (code, hint) = match error {
        AssembleError::Config(e) => return config_failure(e),
        AssembleError::InUse(_) => {
            (Exit::TempFail, "stop the other tidegate, or give this one a ring of its own")
        }
        AssembleError::Ring { source: RingError::Io { source, .. }, .. }
            if source.kind() == io::ErrorKind::ReadOnlyFilesystem =>
        {
            let hint = "it works again when its file system is mounted to be written; buffer status, inspect and verify \
                        work now, and [ring] path can name a copy elsewhere";
            (Exit::CantCreate, hint)
        }
        AssembleError::Ring { source: RingError::Newer { .. }, .. } => {
            let hint =
                "nothing that it holds was changed; [ring] path can name another folder for this version";
            (Exit::Data, hint)
        }
        AssembleError::Ring { .. } => {
            (Exit::CantCreate, "check that the folder can be written and its disk has room")
        }
        AssembleError::Source { .. } => (Exit::Config, "mend the source's settings"),
    };
    Failure::new(code, assemble::chain(error)).hint(hint)
}

fn start_failure(error: &StartError) -> Failure {
    let (code, hint) = match error {
        StartError::Ring(_) | StartError::Sink(DispatchError::Ring(_)) => {
            (Exit::Io, "check that the disk of the ring can be written and has room")
        }
        _ => (Exit::Config, "mend the configuration"),
    };
    Failure::new(code, assemble::chain(error)).hint(hint)
}

fn broken(error: io::Error) -> Failure {
    Failure::new(Exit::Software, format!("cannot start the runtime: {error}"))
}

/// A runtime on all cores, for a whole run.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread().enable_all().build().map_err(broken)
}

/// A runtime on this thread, for a question or two.
pub(super) fn small_runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread().enable_all().build().map_err(broken)
}

/// Runs the parts to their end. With the configuration's path, it can be read again meanwhile.
pub(super) fn run(checked: Checked, path: Option<&Path>, look: &Look, ends: Ends) -> Result<Ran, Failure> {
    let drain = checked.drain();
    runtime()?.block_on(async {
        let mut signals = Signals::new().map_err(broken)?;
        if matches!(ends, Ends::WhenStopped) && !writable(&checked.config().ring.path, &mut signals).await {
            return Ok(Ran { exit: Exit::Ok, complete: false });
        }
        let to_stdout = checked.to_stdout();
        let data_on_stdout = !to_stdout.is_empty();
        let (sources, sinks) = (checked.sources().len(), checked.sinks().len());
        let (until, serves) = match ends {
            Ends::WhenStopped => (Until::Stopped, true),
            Ends::WithInput(_) => (Until::Delivered, false),
        };
        let (control, places) = (checked.control().clone(), Places::of(checked.config()));
        let again = path.map(|path| (path.to_owned(), checked.config().clone()));
        let Some(mut parts) = open(checked, until, &mut signals).await? else {
            return Ok(Ran { exit: Exit::Ok, complete: false });
        };
        let reader = match ends {
            // a daemon goes on with its other sinks, and holds what nobody reads
            Ends::WhenStopped => Reader::default(),
            Ends::WithInput(_) => Reader::of(&mut parts, to_stdout),
        };
        let running = Pipeline::start(parts).await.map_err(|e| start_failure(&e))?;
        tracing::info!(sources, sinks, "running");
        let handle = running.handle();
        let closing = CancellationToken::new();
        let reloader = again.map(|(path, config)| Reloader::new(path, handle.clone(), &config));
        let api = Api::new(handle.clone(), control.clone(), reloader, places);
        let mut listening = Vec::new();
        if serves && control.listen {
            listening.push(tokio::spawn(listen(Arc::clone(&api), closing.clone())));
        }
        if let Some(remote) = control.remote.filter(|_| serves) {
            listening.push(tokio::spawn(listen_remotely(remote, Arc::clone(&api), closing.clone())));
        }
        let cut_short = Arc::new(AtomicBool::new(false));
        let bar = bar(look);
        let watched = Watched { bar: bar.clone(), reader: reader.clone(), cut_short: Arc::clone(&cut_short) };
        let watcher = tokio::spawn(watch(handle, Some(api), signals, drain, ends, watched));
        let summary = running.wait().await;
        end(watcher, bar).await;
        closing.cancel();
        for listening in listening {
            // the socket is gone before the program ends
            let _ = listening.await;
        }
        let summary = summary
            .map_err(|e| Failure::new(Exit::Software, assemble::chain(&e)).hint("what was stored is kept"))?;
        if reader.alone_waits(&summary) {
            return Ok(Ran { exit: Exit::Ok, complete: true });
        }
        tell(&summary, look, data_on_stdout).map_err(|e| Failure::output(&e))?;
        let complete = summary.complete() && !cut_short.load(Ordering::Relaxed);
        Ok(Ran { exit: exit(&summary, ends, complete), complete })
    })
}

/// Waits for a ring whose file system is only read: a daemon that ended over it would be started again and again.
/// What is held could be delivered, but not noted as delivered. `false`: a signal came first.
async fn writable(ring: &Path, signals: &mut Signals) -> bool {
    let mut told = false;
    while is_read_only(SledRing::writable(ring)) {
        if !std::mem::replace(&mut told, true) {
            tracing::error!(
                ring = %ring.display(),
                "the ring's file system is read-only: waiting until it can be written, nothing is read or sent \
                 meanwhile; tidegate buffer status shows what is held"
            );
        }
        if !again(signals).await {
            return false;
        }
    }
    if told {
        tracing::info!(ring = %ring.display(), "the ring can be written");
    }
    true
}

/// Waits before a ring is tried again; `false`: a signal to end came first.
async fn again(signals: &mut Signals) -> bool {
    tokio::select! {
        wish = signals.next() => wish != Wish::End,
        () = tokio::time::sleep(WRITABLE) => true,
    }
}

/// Opens a ring and what goes with it; a daemon waits for room where the disk is too full for it.
async fn open(checked: Checked, until: Until, signals: &mut Signals) -> Result<Option<Parts>, Failure> {
    let mut told = false;
    loop {
        let error = match assemble::open(checked.clone(), until) {
            Ok(parts) => return Ok(Some(parts)),
            Err(e) if until == Until::Stopped && is_full(&e) => e,
            Err(e) => return Err(assemble_failure(&e)),
        };
        if !std::mem::replace(&mut told, true) {
            tracing::error!(
                error = %assemble::chain(&error),
                "the disk of the ring is full: waiting until there is room, nothing is read or sent meanwhile"
            );
        }
        if !again(signals).await {
            return Ok(None);
        }
    }
}

fn is_full(error: &AssembleError) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error, AssembleError::Ring { source: RingError::Io { source, .. }, .. }
        if matches!(source.kind(), StorageFull | QuotaExceeded))
}

fn is_read_only(done: io::Result<()>) -> bool {
    done.is_err_and(|e| e.kind() == io::ErrorKind::ReadOnlyFilesystem)
}

/// Runs parts that were put together elsewhere until all is delivered, or nothing could be for
/// `patience`. A signal stops it, and gives the sinks `drain` more.
pub(super) fn carry(parts: Parts, drain: Duration, patience: Duration) -> Result<Summary, Failure> {
    runtime()?.block_on(async {
        let signals = Signals::new().map_err(broken)?;
        let running = Pipeline::start(parts).await.map_err(|e| start_failure(&e))?;
        let (handle, ends) = (running.handle(), Ends::WithInput(patience));
        let watcher = tokio::spawn(watch(handle, None, signals, drain, ends, Watched::default()));
        let summary = running.wait().await;
        end(watcher, None).await;
        summary.map_err(|e| Failure::new(Exit::Software, assemble::chain(&e)))
    })
}

fn exit(summary: &Summary, ends: Ends, complete: bool) -> Exit {
    if summary.account_error.is_some() {
        return Exit::Software;
    }
    let failed = |kind: Failed| summary.sources.iter().any(|s| s.failed == Some(kind));
    if failed(Failed::Denied) {
        return Exit::NoPermission;
    }
    if failed(Failed::Unavailable) {
        return Exit::Unavailable;
    }
    if summary.sources.iter().any(|s| s.error.is_some() || s.problem_count > 0) {
        return Exit::Data;
    }
    match ends {
        // a daemon that is stopped leaves the rest to its next run
        Ends::WhenStopped => Exit::Ok,
        Ends::WithInput(_) if !complete => Exit::TempFail,
        Ends::WithInput(_) => Exit::Ok,
    }
}

fn tell(summary: &Summary, look: &Look, data_on_stdout: bool) -> io::Result<()> {
    if look.quiet {
        return Ok(());
    }
    let text = if look.json { summary.to_json().to_string() } else { summary.to_string() };
    if data_on_stdout {
        eprintln!("{text}");
        return Ok(());
    }
    let mut out = out::stdout();
    writeln!(out, "{text}")?;
    out.flush()
}

fn bar(look: &Look) -> Option<ProgressBar> {
    if look.quiet || !io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
    bar.set_style(ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}").ok()?);
    Some(bar)
}

/// Ends the watching of a run; nothing is drawn any more when it returns, and the line is free.
async fn end(watcher: JoinHandle<()>, bar: Option<ProgressBar>) {
    watcher.abort();
    // until then it may be drawing
    let _ = watcher.await;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

/// What the watching of a run goes by, and what it tells.
#[derive(Debug, Default)]
struct Watched {
    bar: Option<ProgressBar>,
    reader: Reader,
    cut_short: Arc<AtomicBool>,
}

/// Watches a run: shows it, passes signals on, gives up when nothing moves any more.
async fn watch(
    handle: Handle,
    api: Option<Arc<Api>>,
    mut signals: Signals,
    drain: Duration,
    ends: Ends,
    Watched { bar, reader, cut_short }: Watched,
) {
    // a daemon without a terminal has nothing to look at
    let looks = bar.is_some() || matches!(ends, Ends::WithInput(_));
    let mut tick = tokio::time::interval(LOOK);
    let mut stalled = Stalled::new();
    let mut asked = false;
    loop {
        tokio::select! {
            signal = signals.next() => {
                // a run without a configuration ends with its terminal
                if signal == Wish::Reload && let Some(reloader) = api.as_ref().and_then(|a| a.reloader()) {
                    // what is wrong is in the log
                    let _ = reloader.reload(&Who("signal HUP".to_owned())).await;
                    continue;
                }
                if asked {
                    // the ring survives this as it survives a loss of power
                    std::process::exit(130);
                }
                asked = true;
                cut_short.store(true, Ordering::Relaxed);
                tracing::info!("stopping; what cannot be delivered in {} s stays on disk", drain.as_secs());
                handle.stop(drain);
            }
            () = handle.given_up(), if matches!(ends, Ends::WhenStopped) && !asked => {
                asked = true;
                tracing::error!("every source has ended, and not as it should: stopping");
                handle.stop(drain);
            }
            _ = tick.tick(), if looks => {
                let progress = handle.progress();
                if let Some(bar) = &bar {
                    bar.set_message(line(&progress));
                    bar.tick();
                }
                if !asked && reader.ends(&progress) {
                    asked = true;
                    handle.stop(Duration::ZERO);
                }
                if let Ends::WithInput(patience) = ends
                    && !asked
                    && stalled.since(&progress) >= patience
                    && (progress.sources_running == 0 || !progress.alarms.is_empty() || reader.is_gone())
                {
                    asked = true;
                    cut_short.store(true, Ordering::Relaxed);
                    tracing::error!("nothing moved for {} s: giving up", patience.as_secs());
                    handle.stop(Duration::ZERO);
                }
            }
        }
    }
}

/// How long nothing has been stored, and nothing settled by any sink.
#[derive(Debug)]
struct Stalled {
    done: u64,
    at: Instant,
}

impl Stalled {
    fn new() -> Stalled {
        Stalled { done: 0, at: Instant::now() }
    }

    fn since(&mut self, progress: &Progress) -> Duration {
        let settled: u64 = progress.sinks.values().map(|s| s.delivered + s.rejected + s.left_out).sum();
        let done = settled + progress.stored + progress.dropped;
        if done != self.done {
            *self = Stalled { done, at: Instant::now() };
        }
        self.at.elapsed()
    }
}

/// A run in one line.
fn line(progress: &Progress) -> String {
    let mut line = format!("read {}, stored {}", out::count(progress.read), out::count(progress.stored));
    if progress.dropped > 0 {
        line.push_str(&format!(", dropped {}", out::count(progress.dropped)));
    }
    for (name, sink) in &progress.sinks {
        line.push_str(&format!(
            " | {name}: {} delivered, {} wait",
            out::count(sink.delivered),
            out::count(sink.waiting)
        ));
        if sink.held.is_some() {
            line.push_str(", HELD");
        }
    }
    line
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    End,
    Reload,
}

/// Wishes of a user or the system. Made before anything runs, so that none is missed.
#[derive(Debug)]
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::End,
            _ = self.interrupt.recv() => Wish::End,
            _ = self.hangup.recv() => Wish::Reload,
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {})
    }

    async fn next(&mut self) -> Wish {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
        Wish::End
    }
}

/// Serves the control socket; without it the collector runs all the same.
async fn listen(api: Arc<Api>, closing: CancellationToken) {
    if let Err(error) = api::listen(Arc::clone(&api), closing).await {
        tracing::error!(%error, "the collector runs, but cannot be controlled");
        api.handle().alarm(format!("no control socket: {error}"));
    }
}

async fn listen_remotely(config: RemoteControl, api: Arc<Api>, closing: CancellationToken) {
    match Remote::open(&config).await {
        Ok(remote) => remote.serve(api, closing).await,
        Err(error) => {
            tracing::error!(%error, "the collector runs, but cannot be controlled from afar");
            api.handle().alarm(format!("no remote control: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use indicatif::TermLike;

    use super::*;

    /// Remembers what the last line shows.
    #[derive(Clone, Debug, Default)]
    struct Line(Arc<Mutex<String>>);

    impl TermLike for Line {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            // a terminal takes its time
            std::thread::yield_now();
            self.0.lock().unwrap().push_str(text.trim_end());
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.0.lock().unwrap().clear();
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_line_of_progress_is_gone_before_the_summary_is_told() {
        for _ in 0..20 {
            let line = Line::default();
            let bar =
                ProgressBar::with_draw_target(None, ProgressDrawTarget::term_like(Box::new(line.clone())));
            bar.set_style(ProgressStyle::with_template("{spinner} {wide_msg}").unwrap());
            let (drawn, shown) = (bar.clone(), Arc::new(tokio::sync::Notify::new()));
            let told = Arc::clone(&shown);
            let watcher = tokio::spawn(async move {
                loop {
                    drawn.set_message("read");
                    drawn.force_draw();
                    told.notify_one();
                    tokio::task::yield_now().await;
                }
            });
            shown.notified().await;
            end(watcher, Some(bar)).await;
            assert_eq!(*line.0.lock().unwrap(), "");
        }
    }
}
