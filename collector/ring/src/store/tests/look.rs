//! Looking at a ring, verifying and mending it, on real files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tidegate_proto::ids::SinkId;
use tidegate_proto::level::LossReason;

use crate::store::SledRing;
use crate::testing::contract::{append, options, range};
use crate::testing::sized_block;
use crate::{Ring, RingError, StartAt};

/// Every file below a folder but the lock, which tells who had it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("list") {
        let entry = entry.expect("entry");
        let name = entry.file_name().into_string().expect("a name");
        if entry.file_type().expect("kind").is_dir() {
            out.extend(files(&entry.path()).into_iter().map(|(n, b)| (format!("{name}/{n}"), b)));
        } else if name != "lock" {
            out.insert(name, fs::read(entry.path()).expect("read"));
        }
    }
    out
}

fn ring_of_six(folder: &Path) {
    let ring = SledRing::open(folder, options()).expect("opened");
    ring.attach(&SinkId::new("s"), StartAt::Oldest).expect("attached");
    for tag in 1..=3 {
        append(&ring, vec![sized_block(&[2, 3], tag, 500)]);
    }
    ring.close().expect("closed");
}

#[test]
fn looking_changes_no_file_and_mending_makes_it_sound() {
    let folder = tempfile::tempdir().expect("folder");
    ring_of_six(folder.path());
    let sound = SledRing::look(folder.path(), options(), None).expect("looked").verify().expect("read");
    assert_eq!((sound.segments, sound.blocks, sound.events, sound.problem_count), (1, 3, 6, 0));

    // a byte of the second block, found by what it holds
    let segment = files(folder.path()).into_keys().find(|n| n.ends_with(".seg")).expect("a segment");
    let path = folder.path().join(segment);
    let mut bytes = fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&path, bytes).expect("damaged");
    let before = files(folder.path());
    {
        let ring = SledRing::look(folder.path(), options(), None).expect("looked");
        let found = ring.verify().expect("read");
        assert_eq!(found.problem_count, 1, "{found:?}");
        // whatever is done to it is done to the copy
        ring.plan(&SinkId::new("s"), range(1, 2).into()).expect("planned");
        append(&ring, vec![sized_block(&[2], 9, 10)]);
        assert!(ring.mend().expect("mended") > 0);
    }
    assert!(files(folder.path()) == before, "a file was changed by looking");

    let ring = SledRing::open(folder.path(), options()).expect("opened");
    assert_eq!(ring.mend().expect("mended"), 1);
    assert_eq!(ring.mend().expect("mended"), 0, "nothing is left to mend");
    let account = ring.account();
    account.check().expect("closes");
    let lost = &account.sinks[&SinkId::new("s")].lost;
    assert_eq!(lost.get(&LossReason::Corrupt), Some(&[0, 0, 1, 1]));
    ring.close().expect("closed");
    let ring = SledRing::look(folder.path(), options(), None).expect("looked");
    let found = ring.verify().expect("read");
    assert_eq!((found.blocks, found.events, found.problem_count), (2, 4, 0), "{found:?}");
    let kept = files(folder.path()).into_keys().filter(|n| n.ends_with(".bad")).count();
    assert_eq!(kept, 1, "what was damaged is kept for inspection");
}

/// A small file system in memory, unmounted with the value.
#[cfg(target_os = "linux")]
pub(super) struct Mounted(pub tempfile::TempDir);

#[cfg(target_os = "linux")]
impl Mounted {
    /// `None`, and loudly, where this user may not mount.
    pub fn new(options: &str) -> Option<Mounted> {
        let folder = tempfile::tempdir().expect("folder");
        let made = run(&["mount", "-t", "tmpfs", "-o", options, "none", &folder.path().to_string_lossy()]);
        if made {
            return Some(Mounted(folder));
        }
        assert!(!may_mount(), "this user may mount, and it failed");
        eprintln!("NOT TESTED: this user may mount no file system; run it as root");
        None
    }

    fn remount(&self, how: &str) {
        assert!(run(&["mount", "-o", &format!("remount,{how}"), &self.0.path().to_string_lossy()]));
    }
}

/// Whether this process has the capability to mount (CAP_SYS_ADMIN).
#[cfg(target_os = "linux")]
fn may_mount() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    held.and_then(|h| u64::from_str_radix(h.trim(), 16).ok()).is_some_and(|h| h & 1 << 21 != 0)
}

#[cfg(target_os = "linux")]
fn run(command: &[&str]) -> bool {
    let (program, args) = command.split_first().expect("a program");
    let out = std::process::Command::new(program).args(args).output();
    out.is_ok_and(|o| o.status.success())
}

#[cfg(target_os = "linux")]
impl Drop for Mounted {
    fn drop(&mut self) {
        run(&["umount", "-l", &self.0.path().to_string_lossy()]);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_ring_on_a_read_only_file_system_can_be_looked_at() {
    let Some(mounted) = Mounted::new("size=32m") else { return };
    let folder = mounted.0.path().join("ring");
    ring_of_six(&folder);
    let sound = |folder: &Path| {
        let ring = SledRing::look(folder, options(), None).expect("looked");
        let found = ring.verify().expect("read");
        assert_eq!((found.events, found.problem_count), (6, 0), "{found:?}");
        ring
    };
    mounted.remount("ro");
    assert!(SledRing::writable(&folder).is_err_and(|e| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem));
    let refused = SledRing::open(&folder, options()).expect_err("it cannot be written");
    assert!(matches!(refused, RingError::Io { source, .. }
        if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem));
    let looked = sound(&folder);
    let busy = SledRing::look(&folder, options(), None).expect_err("in use");
    assert!(
        matches!(busy, RingError::Io { source, .. } if source.kind() == std::io::ErrorKind::ResourceBusy)
    );
    drop(looked);
    mounted.remount("rw");
    assert!(SledRing::writable(&folder).is_ok());
    fs::remove_file(folder.join("lock")).expect("removed");
    mounted.remount("ro");
    drop(sound(&folder));
    assert!(!folder.join("lock").exists());
}

#[test]
fn who_has_a_ring_open_is_told_and_nothing_is_made_by_looking() {
    let folder = tempfile::tempdir().expect("folder");
    let none = folder.path().join("none");
    let missing = SledRing::look(&none, options(), None).expect_err("nothing is there");
    assert!(matches!(missing, RingError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound));
    assert!(!none.exists());
    assert_eq!(SledRing::holder(folder.path()), None);
    let _ring = SledRing::open(folder.path(), options()).expect("opened");
    let refused = SledRing::look(folder.path(), options(), None).expect_err("in use");
    assert!(
        matches!(refused, RingError::Io { source, .. } if source.kind() == std::io::ErrorKind::ResourceBusy)
    );
    if cfg!(unix) {
        assert_eq!(SledRing::holder(folder.path()), Some(std::process::id()));
    }
}

#[test]
fn a_closed_ring_can_be_opened_again_while_someone_still_has_a_hand_on_it() {
    let folder = tempfile::tempdir().expect("folder");
    let old = SledRing::open(folder.path(), options()).expect("opened");
    append(&old, vec![sized_block(&[2], 1, 100)]);
    old.close().expect("closed");
    let new = SledRing::open(folder.path(), options()).expect("opened again");
    append(&new, vec![sized_block(&[2], 2, 100)]);
    // the old hand touches nothing any more
    let rule = crate::testing::Above(tidegate_proto::level::TelemetryLevel::Security);
    assert!(matches!(old.purge(&rule), Err(RingError::Closed)));
    assert!(matches!(old.mend(), Err(RingError::Closed)));
    old.close().expect("closed already");
    drop(old);
    assert_eq!(new.verify().expect("read").events, 2);
}

#[test]
fn good_blocks_behind_a_damaged_head_live_through_a_purge_and_a_mending() {
    let folder = tempfile::tempdir().expect("folder");
    ring_of_six(folder.path());
    let segment = files(folder.path()).into_keys().find(|n| n.ends_with(".seg")).expect("a segment");
    let path = folder.path().join(segment);
    let mut bytes = fs::read(&path).expect("read");
    let magic = crate::store::frame::FRAME_MAGIC;
    let heads: Vec<usize> = (0..bytes.len()).filter(|n| bytes[*n..].starts_with(magic)).collect();
    // a note comes first; this is the head of a group
    let at = heads[2] + 20;
    bytes[at] ^= 0xff;
    fs::write(&path, bytes).expect("damaged");

    let ring = SledRing::open(folder.path(), options()).expect("opened");
    assert!(ring.verify().expect("read").problem_count > 0);
    assert_eq!(ring.mend().expect("mended"), 1);
    let found = ring.verify().expect("read");
    assert_eq!((found.events, found.problem_count), (6, 0), "{found:?}");
    let rule = crate::testing::Above(tidegate_proto::level::TelemetryLevel::Enhanced);
    assert_eq!(ring.purge(&rule).expect("purged").events, [0, 0, 0, 3]);
    ring.close().expect("closed");
    // also when the book is lost
    fs::remove_dir_all(folder.path().join("book")).expect("removed");
    let ring = SledRing::open(folder.path(), options()).expect("opened");
    assert_eq!(ring.verify().expect("read").events, 3);
    ring.account().check().expect("closes");
}
