//! A folder that is only read: what is changed is changed in a copy beside it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, RealDisk};

/// Where a name's file is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    /// In the folder below, under this name.
    Under(String),
    /// In the scratch folder, under this name.
    Over(String),
    /// It is gone.
    Nowhere,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Overlay {
    under: RealDisk,
    over: RealDisk,
    /// Names that are not as they are below.
    changed: Mutex<Changed>,
}

#[derive(Debug, Default)]
struct Changed {
    names: BTreeMap<String, At>,
    made: u64,
}

const COPY: usize = 1 << 20;

impl Overlay {
    /// Over `folder`, with a scratch folder for what is new.
    pub fn new(folder: &Path, scratch: &Path) -> io::Result<Overlay> {
        let over = RealDisk::new(scratch)?;
        Ok(Overlay { under: RealDisk::there(folder), over, changed: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, name: &str) -> At {
        self.lock().names.get(name).cloned().unwrap_or_else(|| At::Under(name.to_owned()))
    }

    /// A new file in the scratch folder.
    fn make(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut changed = self.lock();
        changed.made += 1;
        let own = format!("{:08}", changed.made);
        let file = self.over.create(&own)?;
        changed.names.insert(name.to_owned(), At::Over(own));
        Ok(file)
    }
}

impl Disk for Overlay {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let changed = self.lock();
        let mut out = self.under.list()?;
        out.retain(|(name, _)| !changed.names.contains_key(name));
        for (name, at) in &changed.names {
            let len = match at {
                At::Under(own) => self.under.open(own)?.len()?,
                At::Over(own) => self.over.open(own)?.len()?,
                At::Nowhere => continue,
            };
            out.push((name.clone(), len));
        }
        Ok(out)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.make(name)
    }

    fn create_new(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let there = match self.at(name) {
            At::Under(own) => self.under.has(&own)?,
            At::Over(_) => true,
            At::Nowhere => false,
        };
        if there { Err(io::ErrorKind::AlreadyExists.into()) } else { self.make(name) }
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        match self.at(name) {
            At::Under(own) => self.under.open(&own),
            At::Over(own) => self.over.open(&own),
            At::Nowhere => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn open_to_write(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        if let At::Over(own) = self.at(name) {
            return self.over.open_to_write(&own);
        }
        let old = self.open(name)?;
        let new = self.make(name)?;
        let (mut at, mut buffer) = (0, vec![0; COPY]);
        loop {
            let len = old.read_at(at, &mut buffer)?;
            if len == 0 {
                return Ok(new);
            }
            new.write_at(at, buffer.get(..len).unwrap_or_default())?;
            at += len as u64;
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let at = self.at(from);
        if at == At::Nowhere {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut changed = self.lock();
        changed.names.insert(to.to_owned(), at);
        changed.names.insert(from.to_owned(), At::Nowhere);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let old = self.lock().names.insert(name.to_owned(), At::Nowhere);
        match old {
            Some(At::Over(own)) => self.over.remove(&own),
            _ => Ok(()),
        }
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_lies_below_is_not_changed() {
        let folder = tempfile::tempdir().expect("folder");
        let (under, over) = (folder.path().join("under"), folder.path().join("over"));
        fs::create_dir(&under).expect("made");
        for name in ["a", "b", "c"] {
            fs::write(under.join(name), name).expect("written");
        }
        let disk = Overlay::new(&under, &over).expect("made");
        let names = |disk: &Overlay| {
            let mut names = disk.list().expect("list");
            names.sort();
            names.into_iter().map(|(n, len)| format!("{n}{len}")).collect::<Vec<_>>().join(" ")
        };
        let text = |disk: &Overlay, name: &str| {
            let mut bytes = [0; 9];
            let len = disk.open(name).expect("open").read_at(0, &mut bytes).expect("read");
            String::from_utf8_lossy(&bytes[..len]).into_owned()
        };
        assert_eq!(names(&disk), "a1 b1 c1");
        disk.remove("a").expect("removed");
        disk.rename("b", "d").expect("renamed");
        disk.open_to_write("c").expect("open").write_at(1, b"!!").expect("written");
        assert!(disk.create_new("d").is_err() && disk.create_new("c").is_err());
        disk.create_new("e").expect("made").write_at(0, b"new").expect("written");
        disk.rename("e", "a").expect("renamed");
        assert_eq!(names(&disk), "a3 c3 d1");
        assert_eq!([text(&disk, "a"), text(&disk, "c"), text(&disk, "d")], ["new", "c!!", "b"]);
        assert!(disk.open("b").is_err() && disk.rename("b", "x").is_err());
        let below: Vec<String> =
            ["a", "b", "c"].iter().map(|n| fs::read_to_string(under.join(n)).expect("there")).collect();
        assert_eq!(below, ["a", "b", "c"]);
        assert_eq!(fs::read_dir(&under).expect("list").count(), 3);
    }
}
