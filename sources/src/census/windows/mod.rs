//! The machine as Windows shows it: registry, and the few calls of [`raw`].

mod raw;

use winreg::RegKey;
use winreg::enums::HKEY_LOCAL_MACHINE;

use super::{Adapter, Census, Drive, MAX_LIST, Processor, Provider, clean};

const BIOS: &str = r"HARDWARE\DESCRIPTION\System\BIOS";
const PROCESSORS: &str = r"HARDWARE\DESCRIPTION\System\CentralProcessor";
const SYSTEM: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const PROVIDERS: &str = r"SOFTWARE\Tidegate\ResourceProviders";
const PUBLISHERS: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\WINEVT\Publishers";
/// Registered event providers that are looked at; a system has some 1,500.
const MAX_PUBLISHERS: usize = 8192;
/// Drives that are asked for by number.
const MAX_DRIVES: u32 = 64;

fn open(path: &str) -> Option<RegKey> {
    RegKey::predef(HKEY_LOCAL_MACHINE).open_subkey(path).ok()
}

fn text(key: Option<&RegKey>, name: &str) -> String {
    key.and_then(|k| k.get_value::<String, _>(name).ok()).map(|t| clean(&t)).unwrap_or_default()
}

pub(super) fn take() -> Census {
    let bios = open(BIOS);
    let system = open(SYSTEM);
    Census {
        make: text(bios.as_ref(), "SystemManufacturer"),
        model: text(bios.as_ref(), "SystemProductName"),
        system: "windows".to_owned(),
        version: text(system.as_ref(), "CurrentBuildNumber"),
        memory_bytes: raw::memory_bytes(),
        processors: processors(),
        adapters: adapters(),
        drives: drives(),
        providers: providers(),
    }
}

fn processors() -> Vec<Processor> {
    let Some(key) = open(PROCESSORS) else { return Vec::new() };
    let mut all: Vec<Processor> = Vec::new();
    // a system has 2,048 at most
    for name in key.enum_keys().take(4096).flatten() {
        let model = text(key.open_subkey(&name).ok().as_ref(), "ProcessorNameString");
        let room = all.len() < MAX_LIST;
        match all.iter_mut().find(|p| p.model == model) {
            Some(p) => p.threads = p.threads.saturating_add(1),
            None if room => all.push(Processor { model, threads: 1, ..Processor::default() }),
            None => {}
        }
    }
    // the system counts cores and sockets over all kinds
    if let [one] = all.as_mut_slice() {
        (one.cores, one.sockets) = (raw::cores(), raw::sockets());
    }
    all
}

fn adapters() -> Vec<Adapter> {
    // ifType of RFC 2863's registry: 6 ethernetCsmacd, 71 ieee80211
    let kind = |of: u32| match of {
        6 => "ethernet",
        71 => "wireless",
        _ => "other",
    };
    let all = raw::interfaces().into_iter().filter(|i| i.hardware).take(MAX_LIST);
    all.map(|i| Adapter {
        kind: kind(i.kind),
        driver: clean(&i.description),
        // all ones where no cable is plugged in
        mbps: Some(i.bits_per_second / 1_000_000).filter(|n| (1..=10_000_000).contains(n)),
    })
    .collect()
}

fn drives() -> Vec<Drive> {
    let all = (0..MAX_DRIVES).filter_map(raw::drive).take(MAX_LIST);
    all.map(|d| {
        // STORAGE_BUS_TYPE of ntddstor.h: 12 SD, 13 MMC, 17 NVMe
        let kind = match (d.bus, d.seeks) {
            (17, _) => "nvme",
            (12 | 13, _) => "flash",
            (_, Some(false)) => "ssd",
            (_, Some(true)) => "hdd",
            (_, None) => "other",
        };
        Drive { kind, bytes: d.bytes, removable: d.removable }
    })
    .collect()
}

fn providers() -> Vec<Provider> {
    let mut all = Vec::new();
    if let Some(key) = open(PROVIDERS) {
        for name in key.enum_keys().take(MAX_LIST).flatten() {
            let Ok(one) = key.open_subkey(&name) else { continue };
            let scope = if text(Some(&one), "Scope") == "vm" { "vm" } else { "host" };
            let machines = one.get_value::<u32, _>("Machines").unwrap_or(1);
            let version = text(Some(&one), "Version");
            all.push(Provider { name: clean(&name), version, scope, machines: machines.into() });
        }
    }
    if let Some(key) = open(PUBLISHERS) {
        for id in key.enum_keys().take(MAX_PUBLISHERS).flatten() {
            let Ok(one) = key.open_subkey(&id) else { continue };
            let name = text(Some(&one), "");
            if is_of_a_family(&name) && !all.iter().any(|p: &Provider| p.name == name) && all.len() < MAX_LIST
            {
                all.push(Provider { name, version: String::new(), scope: "host", machines: 1 });
            }
        }
    }
    all
}

/// Whether an event provider's name is one of a resource provider, as the catalogue's families say.
fn is_of_a_family(name: &str) -> bool {
    let letters: String =
        name.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase()).collect();
    ["network", "storage", "monitoring", "update"].iter().any(|f| letters.contains(&format!("{f}resource")))
}
