//! The machine as Linux shows it in `/proc`, `/sys` and `/etc`.
//!
//! Sources: proc(5), sysfs-class-net, sysfs-block and dmi-id of the kernel's ABI documentation,
//! os-release(5). Every file is read to a bound, every folder to a number of entries.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Adapter, Census, Drive, MAX_LIST, Processor, Provider, clean};

/// Most bytes of one file; `/proc/cpuinfo` has some 1,500 a processor.
const MAX_FILE: u64 = 1 << 20;
/// Most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 4096;

pub(super) fn take(root: &Path) -> Census {
    let release = text(&root.join("etc/os-release"));
    let of = |key: &str| {
        let line = release.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        clean(line.unwrap_or_default().trim_matches(['"', '\'']))
    };
    let (make, model) = make_and_model(root);
    Census {
        make,
        model,
        system: of("ID"),
        version: of("VERSION_ID"),
        memory_bytes: memory(root),
        processors: processors(root),
        adapters: adapters(root),
        drives: drives(root),
        providers: providers(root),
    }
}

/// A file as text, to a bound; empty where it cannot be read.
fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    // a pipe or device that someone put here would wait for ever
    if !fs::metadata(path).is_ok_and(|m| m.is_file()) {
        return String::new();
    }
    let read = File::open(path).and_then(|f| f.take(MAX_FILE).read_to_end(&mut bytes));
    if read.is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn number(path: &Path) -> Option<u64> {
    text(path).trim().parse().ok()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).into_iter().flatten();
    let mut all: Vec<PathBuf> = all.take(MAX_ENTRIES).filter_map(|e| e.ok().map(|e| e.path())).collect();
    all.sort();
    all
}

fn make_and_model(root: &Path) -> (String, String) {
    let dmi = |name: &str| clean(&text(&root.join("sys/class/dmi/id").join(name)));
    let (make, model) = (dmi("sys_vendor"), dmi("product_name"));
    if !make.is_empty() || !model.is_empty() {
        return (make, model);
    }
    // boards without firmware tables; ends in a zero byte
    (String::new(), clean(&text(&root.join("proc/device-tree/model"))))
}

fn memory(root: &Path) -> u64 {
    let info = text(&root.join("proc/meminfo"));
    let line = info.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

fn processors(root: &Path) -> Vec<Processor> {
    let info = text(&root.join("proc/cpuinfo"));
    let mut all: Vec<(Processor, BTreeSet<String>, BTreeSet<String>)> = Vec::new();
    for block in info.split("\n\n") {
        let of = |keys: &[&str]| {
            block.lines().find_map(|l| {
                let (key, value) = l.split_once(':')?;
                keys.contains(&key.trim()).then(|| clean(value))
            })
        };
        if of(&["processor"]).is_none() {
            continue;
        }
        // ARM tells maker and part instead of a name
        let model = of(&["model name", "cpu model", "cpu"])
            .or_else(|| Some(format!("{} {}", of(&["CPU implementer"])?, of(&["CPU part"])?)));
        let model = model.unwrap_or_default();
        let index = all.iter().position(|(p, ..)| p.model == model).unwrap_or(all.len());
        if index == all.len() {
            if all.len() >= MAX_LIST {
                continue;
            }
            all.push((Processor { model, ..Processor::default() }, BTreeSet::new(), BTreeSet::new()));
        }
        let Some((processor, sockets, cores)) = all.get_mut(index) else { continue };
        processor.threads = processor.threads.saturating_add(1);
        let socket = of(&["physical id"]).unwrap_or_default();
        let core = of(&["core id"]).unwrap_or_else(|| processor.threads.to_string());
        cores.insert(format!("{socket}.{core}"));
        sockets.insert(socket);
    }
    let count = |set: BTreeSet<String>| u32::try_from(set.len()).unwrap_or(u32::MAX);
    all.into_iter()
        .map(|(p, sockets, cores)| Processor { sockets: count(sockets), cores: count(cores), ..p })
        .collect()
}

/// Whether an entry of `/sys/class` or `/sys/block` stands for no device.
fn is_virtual(entry: &Path) -> bool {
    fs::read_link(entry).is_ok_and(|to| to.components().any(|c| c.as_os_str() == "virtual"))
}

fn adapters(root: &Path) -> Vec<Adapter> {
    let real = entries(&root.join("sys/class/net")).into_iter().filter(|e| e.is_dir() && !is_virtual(e));
    real.take(MAX_LIST)
        .map(|entry| {
            // ARPHRD_ETHER of if_arp.h; wireless ones have it as well
            let ethernet = number(&entry.join("type")) == Some(1);
            let wireless = entry.join("wireless").exists() || entry.join("phy80211").exists();
            let kind = match (wireless, ethernet) {
                (true, _) => "wireless",
                (false, true) => "ethernet",
                (false, false) => "other",
            };
            let driver = fs::read_link(entry.join("device/driver")).ok();
            let driver = driver.as_deref().and_then(Path::file_name).map(|n| clean(&n.to_string_lossy()));
            // -1 where no cable is plugged in
            let mbps = number(&entry.join("speed")).filter(|n| (1..=10_000_000).contains(n));
            Adapter { kind, driver: driver.unwrap_or_default(), mbps }
        })
        .collect()
}

fn drives(root: &Path) -> Vec<Drive> {
    let real = entries(&root.join("sys/block")).into_iter().filter(|e| e.is_dir() && !is_virtual(e));
    let drives = real.filter_map(|entry| {
        let name = entry.file_name()?.to_string_lossy().into_owned();
        // optical drives and floppies have the size of what lies in them
        if name.starts_with("sr") || name.starts_with("fd") {
            return None;
        }
        // always in units of 512 bytes
        let bytes = number(&entry.join("size"))?.saturating_mul(512);
        let kind = if name.starts_with("nvme") {
            "nvme"
        } else if name.starts_with("mmcblk") {
            "flash"
        } else {
            match number(&entry.join("queue/rotational")) {
                Some(0) => "ssd",
                Some(_) => "hdd",
                None => "other",
            }
        };
        let removable = number(&entry.join("removable")) == Some(1);
        (bytes > 0).then_some(Drive { kind, bytes, removable })
    });
    drives.take(MAX_LIST).collect()
}

#[derive(Deserialize)]
struct Manifest {
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    scope: String,
    #[serde(default = "one")]
    machines: u64,
}

fn one() -> u64 {
    1
}

fn providers(root: &Path) -> Vec<Provider> {
    let all = entries(&root.join("etc/tidegate/providers.d"));
    let all = all.into_iter().filter(|p| p.extension().is_some_and(|e| e == "json"));
    let read = all.take(MAX_LIST).filter_map(|path| {
        let manifest: Manifest = match serde_json::from_str(&text(&path)) {
            Ok(manifest) => manifest,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "a resource provider's file cannot be read");
                return None;
            }
        };
        let scope = if manifest.scope == "vm" { "vm" } else { "host" };
        let (name, version) = (clean(&manifest.name), clean(&manifest.version));
        (!name.is_empty()).then_some(Provider { name, version, scope, machines: manifest.machines })
    });
    read.collect()
}
