use super::*;
use crate::batch::{Batch, ExtKey, Head, NO_NAME};
use crate::schema::{FieldDef, Schema, SchemaParts};

fn names(list: &[&str]) -> std::sync::Arc<Schema> {
    Schema::new(SchemaParts {
        provider_name: "P".into(),
        event_name: "E".into(),
        fields: list.iter().map(|n| FieldDef { name: (*n).into(), tags: 0 }).collect(),
        ..SchemaParts::default()
    })
}

fn json(batch: &Batch) -> serde_json::Value {
    let mut out = Vec::new();
    write_event(&mut out, batch.get(0).unwrap(), Some(Seq(7)));
    serde_json::from_slice(&out).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out)))
}

#[test]
fn every_kind_of_value_is_json() {
    let mut batch = Batch::new();
    let list: Vec<String> = (0..40).map(|n| format!("f{n}")).collect();
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    let mut e = batch.begin(&names(&list), Head { keyword: 0x8000, ..Head::default() });
    let sid = [1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0];
    let values = [
        (ValueRef::Null, Format::Default, "null"),
        (ValueRef::Bool(true), Format::Default, "true"),
        (ValueRef::I8(-1), Format::Default, "-1"),
        (ValueRef::I8(-1), Format::Hex, "\"0xff\""),
        (ValueRef::U64(u64::MAX), Format::Default, "18446744073709551615"),
        (ValueRef::F64(f64::NAN), Format::Default, "\"NaN\""),
        (ValueRef::F32(1.5), Format::Default, "1.5"),
        (ValueRef::Str("a\"\\\u{1}\n"), Format::Default, "\"a\\\"\\\\\\u0001\\n\""),
        (ValueRef::Bytes(b"\0\x01\x02\x03"), Format::Default, "\"AAECAw==\""),
        (ValueRef::FileTime(116_444_736_000_000_000), Format::Default, "\"1970-01-01T00:00:00.0000000Z\""),
        (ValueRef::Sid(&sid), Format::Default, "\"S-1-5-32-544\""),
        (ValueRef::Ipv4([127, 0, 0, 1]), Format::Default, "\"127.0.0.1\""),
        (ValueRef::SockAddr(&[2, 0, 0, 80, 10, 0, 0, 1]), Format::Default, "\"10.0.0.1:80\""),
        (ValueRef::Pointer(255), Format::Default, "\"0xff\""),
        (ValueRef::Enum { value: 3, label: "Three" }, Format::Default, "\"Three\""),
    ];
    for (n, (v, f, _)) in (0..).zip(&values) {
        e.value(n, *f, *v);
    }
    e.ext(ExtKey::TsId, ValueRef::U32(1));
    e.begin_ext_array(ExtKey::Stack);
    e.value(NO_NAME, Format::Default, ValueRef::Pointer(16));
    e.end();
    e.finish();
    let v = json(&batch);
    for (n, (_, _, want)) in values.iter().enumerate() {
        assert_eq!(v["fields"][format!("f{n}")].to_string(), *want, "field {n}");
    }
    assert_eq!(v["seq"], 7);
    assert_eq!(v["ext"]["stack"][0], "0x10");
    assert_eq!(v["ext"]["tsId"], 1);
}

#[test]
fn repeated_names_are_numbered() {
    let mut batch = Batch::new();
    let many: Vec<&str> = std::iter::repeat_n("same", 60).collect();
    let mut e = batch.begin(&names(&many), Head::default());
    for n in 0..60 {
        e.value(n, Format::Default, ValueRef::U32(n));
    }
    e.finish();
    let v = json(&batch);
    assert_eq!(v["fields"]["same"], 0);
    assert_eq!(v["fields"]["same#2"], 1);
    assert_eq!(v["fields"]["same#60"], 59);
}
