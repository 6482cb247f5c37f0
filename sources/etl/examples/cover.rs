//! Prints how much of each trace is decoded.
use tidegate_etl::*;
use tidegate_proto::batch::Batch;
fn main() {
    for path in std::env::args().skip(1) {
        let file = EtlFile::open(std::fs::read(&path).unwrap()).unwrap();
        let mut r = EventReader::new(&file, PayloadDecoder::new(&path)).unwrap();
        let mut b = Batch::new();
        while r.next_batch(&mut b, 1000).unwrap() {
            b.clear();
        }
        println!("{path} {} events {} problems", r.events(), r.problem_count());
        for c in r.coverage() {
            println!(
                "   {} {:40} {:14} {}",
                tidegate_proto::guid::format(&c.provider),
                c.name,
                c.decoder.as_str(),
                c.events
            );
        }
    }
}
