//! A disk that loses power: ext4 on a loop device, shut down as `xfstests` does it, without
//! writing out its journal. What was not synced, or written back by chance, is gone then.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of its own. Gone with the value.
pub struct Disk {
    folder: tempfile::TempDir,
}

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output();
    let done = done.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Disk {
    pub fn new() -> Disk {
        let disk = Disk { folder: tempfile::tempdir().expect("folder") };
        std::fs::create_dir(disk.mount()).expect("folder");
        let image = std::fs::File::create(disk.image()).expect("image");
        image.set_len(2 << 30).expect("image");
        run("mkfs.ext4", &["-q", "-F", disk.text(&disk.image()).as_str()]);
        disk.power_up();
        disk
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    fn text(&self, path: &Path) -> String {
        path.to_str().expect("a path in UTF-8").to_owned()
    }

    pub fn ring(&self) -> PathBuf {
        self.mount().join("ring")
    }

    /// Writes back some pages at random, then stops the file system at a random moment.
    pub fn pull_the_plug(&self, seed: u64) {
        // EXT4_IOC_SHUTDOWN = _IOR('X', 125, __u32) with EXT4_GOING_FLAGS_NOLOGFLUSH = 2
        const SCRIPT: &str = r"
import fcntl, os, random, struct, sys, time
mount, seed = sys.argv[1], int(sys.argv[2])
r = random.Random(seed)
end = time.monotonic() + r.random() * 0.35
while time.monotonic() < end:
    time.sleep(r.random() * 0.02)
    files = [os.path.join(d, f) for d, _, fs in os.walk(mount) for f in fs]
    if r.random() < 0.5 and files:
        try:
            fd = os.open(r.choice(files), os.O_RDONLY)
            size = os.fstat(fd).st_size
            at = r.randrange(size // 4096 + 1) * 4096
            os.posix_fadvise(fd, at, 4096 * r.randrange(1, 64), os.POSIX_FADV_DONTNEED)
            os.close(fd)
        except OSError:
            pass
fd = os.open(mount, os.O_RDONLY)
fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))
";
        run("python3", &["-c", SCRIPT, &self.text(&self.mount()), &seed.to_string()]);
    }

    /// Mounts what is on the disk.
    pub fn power_up(&self) {
        self.unmount();
        run("mount", &["-o", "loop", &self.text(&self.image()), &self.text(&self.mount())]);
    }

    fn unmount(&self) {
        // fails when it is not mounted
        let _ = Command::new("umount").arg(self.mount()).output();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}
