//! Starting the program and reading what it says.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The root of the source tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in a folder of the tree")
}

/// A trace of the test data, by its path without ending.
pub fn trace(name: &str) -> PathBuf {
    root().join("tests/data/etl/traces").join(format!("{name}.etl"))
}

/// The program, not started yet.
pub fn program() -> Command {
    // another build of it, for long runs beside the work on the tree
    let other = std::env::var_os("TIDEGATE_PROGRAM");
    let mut command = Command::new(other.unwrap_or_else(|| env!("CARGO_BIN_EXE_tidegate-under-test").into()));
    command.env_remove("TIDEGATE_LOG").env_remove("TIDEGATE_LOG_FORMAT").stdin(Stdio::null());
    command
}

/// What a finished run left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The exit code must be this.
    #[track_caller]
    pub fn code(self, want: i32) -> Ran {
        assert_eq!(self.code, want, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard error must hold this text.
    #[track_caller]
    pub fn says(self, text: &str) -> Ran {
        assert!(self.stderr.contains(text), "\"{text}\" is not in:\n{}", self.stderr);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// Standard output as JSON Lines.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    }
}

/// Runs the program to its end.
pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    finish(program().args(args))
}

/// The same for a prepared command.
pub fn finish(command: &mut Command) -> Ran {
    let output = command.output().expect("the program starts");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("UTF-8 on standard output"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A daemon under test, killed when the test lets go of it.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    /// `tidegate run` with a configuration; what it logs goes to `log`.
    pub fn start(config: &Path, log: &Path) -> Daemon {
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = program();
        command.args(["run", "--quiet", "-c"]).arg(config).stdout(Stdio::null()).stderr(log);
        Daemon(command.spawn().expect("the program starts"))
    }

    /// As a loss of power to the process: SIGKILL.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        kill_process(Pid::from_child(&self.0), Signal::HUP).unwrap();
    }

    /// SIGTERM, and its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap().code()
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // one that has been waited for is gone already
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something is so; a minute at most.
#[track_caller]
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Numbers from a seed that is printed, and taken back from `TIDEGATE_SEED`.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(test: &str) -> Chance {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let fresh = now.as_nanos() as u64;
        let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(fresh);
        eprintln!("{test}: TIDEGATE_SEED={seed}");
        Chance(seed)
    }

    /// From 0 to below `n` (SplitMix64).
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }
}

/// How many rounds a test that kills the program goes: `TIDEGATE_ROUNDS`, 10 otherwise.
pub fn rounds() -> u64 {
    std::env::var("TIDEGATE_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(10)
}
