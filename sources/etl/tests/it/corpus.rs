//! The fuzzer's corpus, replayed.

#[path = "../../../../tests/fuzz/check_etl.rs"]
mod check_etl;

use std::path::Path;

#[test]
fn the_corpus_of_the_fuzzer_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/etl");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // So that a failure names its input.
        println!("{}", path.display());
        check_etl::check(&std::fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 10, "{count}");
}
