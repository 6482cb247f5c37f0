use super::*;
use tidegate_ring::{Compression, FullPolicy};

#[test]
fn an_empty_file_is_a_configuration_of_defaults() {
    let config = parse("t.toml", "").unwrap();
    assert_eq!(config.host.stream, "events");
    assert_eq!(config.intake, IntakeConfig::default());
    assert_eq!(config.ring.options.bound_bytes, 256 << 20);
    assert_eq!(config.telemetry.policy_file, PathBuf::from("/etc/tidegate/policy.toml"));
    assert!(config.sinks.is_empty() && config.sources.is_empty());
}

#[test]
fn every_key_is_read() {
    let text = r#"
        [host]
        name = "web-01"
        stream = "audit"
        [telemetry]
        level = 1
        policy_file = "/p.toml"
        default_level = "Full"
        catalogues = ["a.toml", "b.toml"]
        scrub = false
        off = ["sql"]
        [telemetry.pseudonyms]
        key_id = "k1"
        key = "env:KEY"
        period = "7d"
        [ring]
        path = "/r"
        size = "1GiB"
        segment_size = "4MiB"
        full = "block"
        max_age = "7d"
        compression = "zstd:3"
        commit_delay = "20ms"
        commit_bytes = 65536
        [intake]
        seal_bytes = "64KiB"
        seal_age = "10ms"
        max_event = "64KiB"
        queue = 4
        [health]
        events = false
        every = "1m"
        [log]
        level = "debug"
        format = "json"
        [network]
        metered = "file:/m"
        [shutdown]
        drain = "3s"
        [sources.setup]
        type = "etl"
        paths = ["/x.etl"]
        [sinks.out]
        type = "directory"
        path = "/out"
        start = "now"
        order = "newest-first"
        max_events_per_second = 100
        max_bytes_per_second = "1MiB"
        dead_letters = "/dead"
        filter = { level = "Basic", providers = "A*", not_events = ["x", "y"] }
        retry = { first = "1s", most = "1m", held = "2m", breaker = 3 }
    "#;
    let c = parse("t.toml", text).unwrap();
    assert_eq!((c.host.name.as_str(), c.host.stream.as_str()), ("web-01", "audit"));
    assert_eq!(c.telemetry.level, Some(TelemetryLevel::Basic));
    assert_eq!(c.telemetry.catalogues.len(), 2);
    assert_eq!((c.telemetry.scrub, c.telemetry.off), (Some(false), vec!["sql".to_owned()]));
    let pseudonyms = c.telemetry.pseudonyms.unwrap();
    assert_eq!(pseudonyms.key, SecretRef::Env("KEY".to_owned()));
    let ring = &c.ring.options;
    assert_eq!((ring.bound_bytes, ring.full), (1 << 30, FullPolicy::Block));
    assert_eq!(ring.compression, Compression::Zstd(3));
    assert_eq!(ring.segment_bytes, Some(4 << 20));
    assert_eq!(c.intake.seal_bytes, 64 << 10);
    assert!(!c.health.events && c.log.json);
    assert_eq!(c.network.metered, MeteredConfig::File(PathBuf::from("/m")));
    assert_eq!(c.shutdown.drain, Duration::from_secs(3));
    assert_eq!((c.sources[0].name.as_str(), c.sources[0].config.kind()), ("setup", "etl"));
    let sink = &c.sinks[0];
    assert_eq!((sink.start, sink.order), (Start::Now, Order::NewestFirst));
    assert_eq!(sink.filter.providers, ["A*"]);
    assert_eq!(sink.retry.breaker, 3);
    assert_eq!(sink.config.kind(), "directory");
}

#[test]
fn all_errors_are_found_at_once_with_line_key_and_suggestion() {
    let text = "[ring]\nsize = \"1KiB\"\nfull = \"drop-oldst\"\nsise = 3\n\n[intake]\nqueue = \"x\"\n\n[snks.a]\ntype = \"x\"\n[sinks.b]\npath = \"y\"\n[sinks.\"a/b\"]\ntype = \"stdout\"\n[telemetry.pseudonyms]\nkey = \"hunter2hunter2hunter2\"\n";
    let e = parse("t.toml", text).unwrap_err();
    let shown = e.to_string();
    for part in [
        "t.toml:2 (ring.size): 1.0 KiB is out of range; 4.0 MiB to",
        "t.toml:3 (ring.full): \"drop-oldst\" is not known here; did you mean \"drop-oldest\"?",
        "t.toml:4 (ring.sise): unknown key \"sise\"; did you mean \"size\"?",
        "t.toml:7 (intake.queue): a number is expected, not a text",
        "t.toml:9 (snks): unknown key \"snks\"; did you mean \"sinks\"?",
        "t.toml:11 (sinks.b.type): sink \"b\" needs a type",
        "t.toml:13: \"a/b\" is no name",
        "t.toml:16 (telemetry.pseudonyms.key): a secret is given by reference only",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    assert!(!shown.contains("hunter2"), "a secret given by mistake is not shown");
}

#[test]
fn what_sinks_and_sources_find_wrong_has_its_line_and_a_suggestion_too() {
    let text = "[sinks.out]\ntype = \"directory\"\npath = \"x\"\ncompresion = \"gzip\"\n\
                [sources.a]\ntype = \"etl\"\npaths = []\n[sources.b]\ntype = \"jsnl\"\n\
                [sources.tidegate]\ntype = \"synthetic\"\n[sinks.s]\ntype = \"stdout\"\nfilter = { events = \"\" }\n";
    let shown = parse("t.toml", text).unwrap_err().to_string();
    for part in [
        "t.toml:4 (sinks.out.compresion): unknown key \"compresion\"; did you mean \"compression\"?",
        "t.toml:5 (sources.a",
        "t.toml:9 (sources.b.type): ",
        "t.toml:10: no source may be called \"tidegate\"",
        "t.toml:14 (sinks.s.filter.events): a name pattern may not be empty",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
}

#[test]
fn text_that_is_no_toml_is_named_with_its_line() {
    let e = parse("t.toml", "[host]\nname = \"a\"\nname = \"b\"\n").unwrap_err();
    assert_eq!(e.problems[0].line, 3, "{e}");
    let e = parse("t.toml", "[host\n").unwrap_err();
    assert_eq!(e.problems[0].line, 1, "{e}");
    for bad in ["\0", "a = 99999999999999999999999", "= 1", "[a]\n[a]"] {
        assert!(parse("t.toml", bad).is_err(), "{bad:?}");
    }
}

#[test]
fn parts_are_laid_over_the_file_in_the_order_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("tidegate.toml");
    std::fs::create_dir(dir.path().join("conf.d")).unwrap();
    std::fs::write(&main, "[host]\nname = \"a\"\nstream = \"s\"\n").unwrap();
    std::fs::write(dir.path().join("conf.d/20.toml"), "[host]\nname = \"c\"\n").unwrap();
    std::fs::write(dir.path().join("conf.d/10.toml"), "[host]\nname = \"b\"\n").unwrap();
    std::fs::write(dir.path().join("conf.d/notes.txt"), "no toml").unwrap();
    let config = load(&main).unwrap();
    assert_eq!((config.host.name.as_str(), config.host.stream.as_str()), ("c", "s"));
    assert_eq!(config.files.len(), 3);
    std::fs::write(dir.path().join("conf.d/10.toml"), "[host]\nnam = \"b\"\n").unwrap();
    let e = load(&main).unwrap_err();
    assert!(e.to_string().contains("10.toml:2 (host.nam)"), "{e}");
    std::fs::remove_file(&main).unwrap();
    assert!(load(&main).unwrap_err().to_string().contains("cannot be read"));
}

#[test]
fn two_sinks_whose_files_or_blobs_would_have_the_same_names_are_refused() {
    let both = |a: &str, b: &str| {
        let text = format!("[host]\nname = \"web-1\"\n[sinks.one]\n{a}\n[sinks.two]\n{b}\n");
        parse("t.toml", &text).map(drop).map_err(|e| e.to_string())
    };
    let dir = "type = \"directory\"\npath = \"/out\"";
    let blob = "type = \"blob\"\ncontainer = \"logs\"";
    let keyed = format!("{blob}\naccount = \"acct\"\nkey = \"file:/k\"");
    let string = |text: &str| format!("{blob}\nconnection_string = \"value:{text}\"");
    let named = string("AccountName=acct;AccountKey=c2VjcmV0");
    for (a, b) in [
        (dir.to_owned(), dir.to_owned()),
        // a sink replaces what the other has written where their filters differ
        (dir.to_owned(), format!("{dir}\nfilter = {{ providers = \"A*\" }}")),
        (dir.to_owned(), "type = \"directory\"\npath = \"/./out/\"".to_owned()),
        (
            format!("{dir}\nlayout = \"x/{{host}}\""),
            "type = \"directory\"\npath = \"/out/x/web-1\"".to_owned(),
        ),
        (keyed.clone(), format!("{keyed}\nbatch = {{ events = 7 }}")),
        (keyed.clone(), named.clone()),
        (keyed.clone(), format!("{keyed}\nlayout = \"web-1/events/dt={{date}}/hr={{hour}}\"")),
    ] {
        let told = both(&a, &b).unwrap_err();
        let words = ["(sinks.two", "\"one\"", "\"two\"", "layout"];
        assert!(words.iter().all(|w| told.contains(w)) && !told.contains("c2VjcmV0"), "{a}\n{b}\n{told}");
    }
    for (a, b) in [
        (dir.to_owned(), "type = \"directory\"\npath = \"/other\"".to_owned()),
        (dir.to_owned(), format!("{dir}\nlayout = \"two\"")),
        (dir.to_owned(), format!("{dir}\ncompression = \"gzip\"")),
        (keyed.clone(), keyed.replace("logs", "other")),
        (keyed.clone(), keyed.replace("acct", "other")),
        (keyed.clone(), format!("{keyed}\nendpoint_suffix = \"blob.test\"")),
        (keyed.clone(), format!("{keyed}\nlayout = \"two\"")),
        // where it is cannot be told now
        (string("env:NOT_SET"), format!("{blob}\nconnection_string = \"env:NOT_SET_2\"")),
        ("type = \"stdout\"".to_owned(), "type = \"stdout\"".to_owned()),
    ] {
        both(&a, &b).unwrap_or_else(|e| panic!("{a}\n{b}\n{e}"));
    }
}
