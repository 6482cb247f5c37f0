//! The traces and what is known of them.

use std::path::{Path, PathBuf};

/// Folder of the traces and oracles.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/etl")
}

/// Every trace: `set/name` without its extension, and its bytes.
pub fn traces() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for set in std::fs::read_dir(folder().join("traces")).unwrap() {
        let set = set.unwrap();
        for file in std::fs::read_dir(set.path()).unwrap() {
            let path = file.unwrap().path();
            let name = format!("{}/{}", set.file_name().display(), path.file_stem().unwrap().display());
            all.push((name, std::fs::read(&path).unwrap()));
        }
    }
    all.sort();
    assert_eq!(all.len(), 24);
    all
}

/// One trace's bytes.
pub fn trace(name: &str) -> Vec<u8> {
    std::fs::read(folder().join("traces").join(format!("{name}.etl"))).unwrap()
}

/// A text of the oracle.
pub fn oracle(path: &str) -> String {
    std::fs::read_to_string(folder().join("oracle").join(path)).unwrap()
}

/// A small generator of numbers, so that a failure can be repeated from its printed seed.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}
