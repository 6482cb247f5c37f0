use std::io::Cursor;

use super::*;

const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

fn blocks() -> Vec<Vec<u8>> {
    (1..6u8).map(|n| (0..u32::from(n) * 3000).map(|i| (i / 7) as u8 ^ n).collect()).collect()
}

fn written(compression: Compression) -> Vec<u8> {
    let mut writer = CaptureWriter::new(Vec::new(), compression).unwrap();
    for block in blocks() {
        writer.push(&block, 10).unwrap();
    }
    let bytes = writer.bytes();
    let out = writer.finish().unwrap();
    assert_eq!(out.len() as u64, bytes + 2, "the end mark has two bytes");
    out
}

/// Blocks and the words of each error, to the end.
fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, Vec<String>) {
    let (mut all, mut errors) = (Vec::new(), Vec::new());
    let mut reader = CaptureReader::new(bytes).unwrap();
    loop {
        match reader.next_block() {
            Ok(Some(block)) => all.push(block.to_vec()),
            Ok(None) => return (all, errors),
            Err(e) => errors.push(e.to_string()),
        }
    }
}

#[test]
fn what_is_written_is_read() {
    for compression in ALL {
        let bytes = written(compression);
        assert_eq!(read(&bytes), (blocks(), Vec::new()), "{compression:?}");
        let mut reader = CaptureReader::new(bytes.as_slice()).unwrap();
        while reader.next_block().unwrap().is_some() {}
        assert_eq!(reader.told_events(), Some(50));
    }
}

#[test]
fn reading_goes_on_at_every_frame() {
    let bytes = written(Compression::Zstd);
    let mut reader = CaptureReader::new(Cursor::new(&bytes)).unwrap();
    let mut places = vec![reader.offset()];
    while reader.next_block().unwrap().is_some() {
        places.push(reader.offset());
    }
    for (n, place) in places.iter().enumerate() {
        reader.resume(*place).unwrap();
        let mut rest = Vec::new();
        while let Some(block) = reader.next_block().unwrap() {
            rest.push(block.to_vec());
        }
        assert_eq!(rest, blocks()[n..]);
    }
}

#[test]
fn a_damaged_frame_costs_its_own_block_only() {
    let mut bytes = written(Compression::Gzip);
    let mut reader = CaptureReader::new(bytes.as_slice()).unwrap();
    reader.next_block().unwrap();
    let second = usize::try_from(reader.offset()).unwrap();
    bytes[second + 20] ^= 1;
    let (read, errors) = read(&bytes);
    let mut rest = blocks();
    rest.remove(1);
    assert_eq!(read, rest);
    assert_eq!(errors, [format!("damaged frame at offset {second}: wrong checksum")]);
}

#[test]
fn a_cut_at_any_byte_is_known() {
    for compression in ALL {
        let bytes = written(compression);
        let ends = |cut: &usize| *cut < 200 || bytes.len() - cut < 200 || cut.is_multiple_of(331);
        for cut in (8..bytes.len()).filter(ends) {
            let (read, errors) = read(&bytes[..cut]);
            assert!(read.len() <= 5 && blocks().starts_with(&read));
            assert_eq!(errors.len(), 1, "cut at {cut}");
        }
        for cut in 0..8 {
            let error = CaptureReader::new(&bytes[..cut]).unwrap_err();
            assert!(matches!(error, CaptureError::NotACapture));
        }
    }
}

#[test]
fn no_bytes_make_it_panic_or_take_much_memory() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    println!("seed {seed:#x}");
    for compression in ALL {
        let whole = written(compression);
        for _ in 0..500 {
            let mut bytes = whole.clone();
            for _ in 0..4 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let at = 8 + (seed >> 8) as usize % (bytes.len() - 8);
                bytes[at] = seed as u8;
            }
            let (blocks, _) = read(&bytes);
            assert!(blocks.len() < 100);
        }
    }
}

#[test]
fn foreign_and_newer_files_are_refused() {
    assert!(matches!(CaptureReader::new(&b"{\"time\":1}"[..]), Err(CaptureError::NotACapture)));
    assert!(matches!(CaptureReader::new(&b"TGCAPT\x02\x00"[..]), Err(CaptureError::Newer(2))));
    assert!(matches!(CaptureReader::new(&b"TGCAPT\x01\x09"[..]), Err(CaptureError::Compression(9))));
    let mut writer = CaptureWriter::new(Vec::new(), Compression::None).unwrap();
    assert_eq!(writer.push(&[], 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}
