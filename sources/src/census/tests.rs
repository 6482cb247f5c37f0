use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::source::intake;
use tidegate_proto::json;

/// The name that nothing may be called by, in every place where a system keeps such.
const NAMES: [&str; 4] = ["SN-4711-0815", "00:15:5d:aa:bb:cc", "enx00155daabbcc", "ada-laptop"];

fn write(root: &Path, name: &str, text: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn link(root: &Path, name: &str, to: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(to, path).unwrap();
}

/// A small server as its kernel shows it.
fn server(root: &Path) {
    write(root, "etc/os-release", "NAME=\"Debian\"\nID=debian\nVERSION_ID=\"13\"\n");
    write(root, "etc/hostname", NAMES[3]);
    write(root, "sys/class/dmi/id/sys_vendor", "Contoso  Ltd.\n");
    write(root, "sys/class/dmi/id/product_name", "Server 9\u{7}000\n");
    write(root, "sys/class/dmi/id/product_serial", NAMES[0]);
    write(root, "proc/meminfo", "MemTotal:       33554432 kB\nMemFree:  1 kB\n");
    let cpu = |n: u32| {
        format!(
            "processor\t: {n}\nmodel name\t: Maker  CPU 1\nphysical id\t: {}\ncore id\t\t: {}\n\n",
            n / 4,
            n % 2
        )
    };
    write(root, "proc/cpuinfo", (0..8).map(cpu).collect::<String>());
    for (name, speed) in [(NAMES[2], "10000"), ("eth1", "10000"), ("eth2", "-1")] {
        let device = format!("sys/devices/pci0/net/{name}");
        write(root, &format!("{device}/type"), "1\n");
        write(root, &format!("{device}/speed"), speed);
        write(root, &format!("{device}/address"), NAMES[1]);
        link(root, &format!("{device}/device/driver"), "../../../bus/pci/drivers/ixgbe");
        link(root, &format!("sys/class/net/{name}"), &format!("../../devices/pci0/net/{name}"));
    }
    write(root, "sys/devices/virtual/net/lo/type", "772");
    link(root, "sys/class/net/lo", "../../devices/virtual/net/lo");
    for (name, sectors, rotational, removable) in [
        ("sda", "7814037168", "1", "0"),
        ("nvme0n1", "1953525168", "0", "0"),
        ("sdb", "62533296", "1", "1"),
        ("sr0", "100", "1", "1"),
    ] {
        let device = format!("sys/devices/pci0/block/{name}");
        write(root, &format!("{device}/size"), sectors);
        write(root, &format!("{device}/queue/rotational"), rotational);
        write(root, &format!("{device}/removable"), removable);
        write(root, &format!("{device}/device/serial"), NAMES[0]);
        link(root, &format!("sys/block/{name}"), &format!("../devices/pci0/block/{name}"));
    }
    write(root, "sys/devices/virtual/block/loop0/size", "100");
    link(root, "sys/block/loop0", "../devices/virtual/block/loop0");
    write(root, "etc/tidegate/providers.d/net.json", r#"{"name":"Contoso.NetworkResource","version":"1.2"}"#);
    write(
        root,
        "etc/tidegate/providers.d/update.json",
        r#"{"name":"Contoso.UpdateResource","version":"3","scope":"vm","machines":4}"#,
    );
    write(root, "etc/tidegate/providers.d/broken.json", "{");
    write(root, "etc/tidegate/providers.d/other.txt", "x");
}

fn config(root: &Path) -> CensusConfig {
    CensusConfig { root: root.to_owned(), ..CensusConfig::default() }
}

fn told(batch: &Batch) -> Vec<serde_json::Value> {
    let line = |e| {
        let mut out = Vec::new();
        json::write_event(&mut out, e, None);
        serde_json::from_slice(&out).unwrap()
    };
    batch.iter().map(line).collect()
}

#[test]
fn a_machine_is_told_without_what_names_it() {
    let dir = tempfile::tempdir().unwrap();
    server(dir.path());
    let mut batch = Batch::new();
    tell::push(&mut batch, &Census::take(&config(dir.path())));
    let events = told(&batch);
    let mut device = events[0]["fields"].clone();
    assert_eq!(device["configuration"].as_str().unwrap().len(), 16);
    assert_eq!(events[1]["fields"]["configuration"], device["configuration"]);
    device.as_object_mut().unwrap().remove("configuration");
    device.as_object_mut().unwrap().remove("architecture");
    assert_eq!(
        device,
        serde_json::json!({
            "make": "Contoso Ltd.", "model": "Server 9000", "system": "debian", "version": "13",
            "memoryBytes": 34_359_738_368_u64,
            "processors": [{ "model": "Maker CPU 1", "sockets": 2, "cores": 4, "threads": 8 }],
            "adapters": [
                { "kind": "ethernet", "driver": "ixgbe", "count": 1 },
                { "kind": "ethernet", "driver": "ixgbe", "mbps": 10000, "count": 2 },
            ],
            "drives": [
                { "kind": "hdd", "bytes": 32_017_047_552_u64, "removable": true, "count": 1 },
                { "kind": "hdd", "bytes": 4_000_787_030_016_u64, "removable": false, "count": 1 },
                { "kind": "nvme", "bytes": 1_000_204_886_016_u64, "removable": false, "count": 1 },
            ],
        })
    );
    assert_eq!(
        events[1]["fields"]["providers"],
        serde_json::json!([
            { "name": "Contoso.NetworkResource", "version": "1.2", "scope": "host", "machines": 1 },
            { "name": "Contoso.UpdateResource", "version": "3", "scope": "vm", "machines": 4 },
        ])
    );
    let all = format!("{events:?}").to_lowercase();
    for name in NAMES {
        assert!(!all.contains(&name.to_lowercase()), "{name}");
    }
    assert!(events.iter().all(|e| e["telemetryLevel"] == "Basic" && e["provider"] == "Tidegate"));
}

#[test]
fn the_configuration_is_that_of_the_hardware_alone() {
    let dir = tempfile::tempdir().unwrap();
    server(dir.path());
    let take = || Census::take(&config(dir.path())).configuration();
    let first = take();
    write(dir.path(), "etc/os-release", "ID=debian\nVERSION_ID=14\n");
    write(dir.path(), "sys/devices/pci0/net/eth1/speed", "1000");
    write(dir.path(), "proc/meminfo", "MemTotal:       33154432 kB\n");
    fs::remove_file(dir.path().join("sys/block/sdb")).unwrap();
    assert_eq!(take(), first);
    write(dir.path(), "proc/meminfo", "MemTotal:       67108864 kB\n");
    assert_ne!(take(), first);
}

#[test]
fn nothing_and_nonsense_are_told_as_unknown() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Census::take(&config(dir.path())), Census::default());
    for (name, bytes) in [
        ("proc/cpuinfo", vec![b'\n'; 3 << 20]),
        ("proc/meminfo", b"MemTotal: -5 kB".to_vec()),
        ("sys/class/dmi/id/sys_vendor", vec![0xff; 5000]),
        ("sys/class/dmi/id/product_name", vec![b'x'; 5000]),
        ("sys/block/sda/size", b"99999999999999999999999".to_vec()),
        ("sys/block/sdb/size", u64::MAX.to_string().into_bytes()),
        ("sys/class/net/eth0/speed", b"1e9".to_vec()),
    ] {
        write(dir.path(), name, bytes);
    }
    fs::create_dir_all(dir.path().join("etc/os-release")).unwrap();
    let census = Census::take(&config(dir.path()));
    assert_eq!((census.make.len(), census.model.len(), census.memory_bytes), (0, MAX_TEXT, 0));
    assert_eq!(census.drives, [Drive { kind: "other", bytes: u64::MAX, removable: false }]);
    assert_eq!(census.adapters, [Adapter { kind: "other", driver: String::new(), mbps: None }]);
    let mut batch = Batch::new();
    tell::push(&mut batch, &census);
    assert_eq!(batch.len(), 2);
}

#[test]
fn this_machine_has_processors_and_memory() {
    let census = Census::take(&CensusConfig::default());
    assert!(census.memory_bytes > 1 << 20 && census.processors.iter().any(|p| p.threads > 0), "{census:?}");
}

#[tokio::test(start_paused = true)]
async fn it_is_told_at_the_start_daily_and_on_a_change() {
    let dir = tempfile::tempdir().unwrap();
    server(dir.path());
    let mut way = intake(8);
    let stop = CancellationToken::new();
    let source = Box::new(config(dir.path()).build("census").unwrap());
    let begun = tokio::time::Instant::now();
    let task = tokio::spawn(source.run(way.outlet("census"), stop.clone()));
    let mut next = async || {
        let item = way.next().await.unwrap();
        assert_eq!((item.events.len(), item.position.len()), (2, 0));
        (begun.elapsed().as_secs(), told(&item.events)[0]["fields"]["memoryBytes"].as_u64().unwrap() >> 30)
    };
    assert_eq!(next().await, (0, 32));
    assert_eq!(next().await, (86_400, 32));
    write(dir.path(), "proc/meminfo", "MemTotal:       67108864 kB\n");
    assert_eq!(next().await, (87_000, 64));
    stop.cancel();
    assert!(task.await.unwrap().unwrap().stopped);
    assert!(CensusConfig { look_s: 0, ..CensusConfig::default() }.build("x").is_err());
    assert!(CensusConfig { every_s: 59, ..CensusConfig::default() }.check().is_err());
}
