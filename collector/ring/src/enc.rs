//! Numbers and byte strings, as they stand in frames and in the book: varints (LEB128), zigzag
//! for signed numbers, a length before bytes. Reading is total: it ends in `None`, never in a
//! panic.

/// Writes.
#[derive(Debug, Default)]
pub(crate) struct Enc(pub Vec<u8>);

impl Enc {
    pub fn n(&mut self, mut n: u64) -> &mut Enc {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
        self
    }

    pub fn i(&mut self, n: i64) -> &mut Enc {
        self.n(((n << 1) ^ (n >> 63)).cast_unsigned())
    }

    pub fn bytes(&mut self, b: &[u8]) -> &mut Enc {
        self.n(b.len() as u64);
        self.0.extend_from_slice(b);
        self
    }

    pub fn fixed(&mut self, b: &[u8]) -> &mut Enc {
        self.0.extend_from_slice(b);
        self
    }

    pub fn levels(&mut self, levels: &[u64; 4]) -> &mut Enc {
        for n in levels {
            self.n(*n);
        }
        self
    }
}

/// Reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dec<'a>(pub &'a [u8]);

impl<'a> Dec<'a> {
    pub fn n(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let (b, rest) = self.0.split_first()?;
            self.0 = rest;
            if shift == 63 && *b > 1 {
                return None;
            }
            n |= u64::from(b & 0x7f) << shift;
            if *b < 0x80 {
                return Some(n);
            }
        }
        None
    }

    pub fn i(&mut self) -> Option<i64> {
        let n = self.n()?;
        Some((n >> 1).cast_signed() ^ -(n & 1).cast_signed())
    }

    pub fn u32(&mut self) -> Option<u32> {
        u32::try_from(self.n()?).ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        u8::try_from(self.n()?).ok()
    }

    pub fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (b, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*b)
    }

    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.n()?).ok()?;
        let (b, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(b)
    }

    pub fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_owned()).ok()
    }

    pub fn levels(&mut self) -> Option<[u64; 4]> {
        Some([self.n()?, self.n()?, self.n()?, self.n()?])
    }

    /// How many items follow: never more than bytes are left.
    pub fn count(&mut self) -> Option<usize> {
        let n = usize::try_from(self.n()?).ok()?;
        (n <= self.0.len()).then_some(n)
    }

    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let n = self.count()?;
        (0..n).map(|_| item(self)).collect()
    }
}
