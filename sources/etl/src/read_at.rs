//! Where the bytes of a trace come from.

use std::io;
use std::sync::Arc;

/// A sequence of bytes that can be read from anywhere, by several readers at once.
pub trait ReadAt {
    /// Length in bytes. A file that grows meanwhile is read up to the length seen at open.
    fn size(&self) -> io::Result<u64>;

    /// Reads up to `buf.len()` bytes from `offset`; 0 at the end. May read fewer bytes than
    /// there are; the caller asks again.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
}

impl ReadAt for [u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        Ok(n)
    }
}

macro_rules! forward {
    ($($t:ty),*) => {$(
        impl ReadAt for $t {
            fn size(&self) -> io::Result<u64> {
                Ok(self.len() as u64)
            }
            fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
                <[u8] as ReadAt>::read_at(self, offset, buf)
            }
        }
    )*};
}
forward!(&[u8], Vec<u8>, Arc<[u8]>);

#[cfg(unix)]
impl ReadAt for std::fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buf, offset)
    }
}

#[cfg(windows)]
impl ReadAt for std::fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(self, buf, offset)
    }
}

/// Fills `buf` from `offset` as far as the source goes; returns the bytes read.
pub(crate) fn read_full<R: ReadAt + ?Sized>(src: &R, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
        let at = offset.saturating_add(done as u64);
        match src.read_at(at, rest) {
            Ok(0) => break,
            // A source that claims more than it was given room for is not believed.
            Ok(n) => done += n.min(rest.len()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
