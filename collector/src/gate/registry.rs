//! The policy of the Windows registry: both `DataCollection` keys of the machine.
//!
//! Management writes to the first, the Settings program to the second. Which of them Windows
//! itself lets win is not documented in every case, so each value is a ceiling and the stricter
//! counts: management can always lower, and nobody can raise above management.
//! Reading is Windows only; what the values mean is decided, and tested, everywhere.

use super::level::Policy;

/// Group Policy and device management write here.
pub const POLICY_KEY: &str = r"SOFTWARE\Policies\Microsoft\Windows\DataCollection";
/// The device's own settings.
pub const DEVICE_KEY: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\DataCollection";
/// The level, 0 to 3.
pub const ALLOW: &str = "AllowTelemetry";
/// The highest level that may be chosen on the device; only in [`DEVICE_KEY`].
pub const MOST: &str = "MaxTelemetryAllowed";

/// One value as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Neither the key nor the value need be there.
    Absent,
    /// A `REG_DWORD`.
    Dword(u32),
    /// Something of another type, named in words.
    OtherType(String),
    /// It could not be read.
    Unreadable(String),
}

impl Value {
    fn policy(self, key: &str, name: &str) -> Policy {
        let origin = format!(r"registry HKLM\{key}\{name}");
        match self {
            Value::Absent => Policy::Absent,
            Value::Dword(n) => match Policy::from_value(&origin, n.into()) {
                Policy::Broken(why) => {
                    Policy::Broken(format!("{why}; level 0 is in force until it is mended"))
                }
                fine => fine,
            },
            Value::OtherType(found) => Policy::Broken(format!(
                "{origin}: a DWORD is expected, {found} is there; level 0 is in force"
            )),
            Value::Unreadable(why) => Policy::Broken(format!("{origin}: {why}; level 0 is in force")),
        }
    }
}

/// The values of both keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    /// `AllowTelemetry` of [`POLICY_KEY`].
    pub policy: Value,
    /// `AllowTelemetry` of [`DEVICE_KEY`].
    pub device: Value,
    /// `MaxTelemetryAllowed` of [`DEVICE_KEY`].
    pub device_most: Value,
}

impl Values {
    /// The ceiling they come to: the strictest; what is there but does not hold is level 0.
    #[must_use]
    pub fn ceiling(self) -> Policy {
        let policy = self.policy.policy(POLICY_KEY, ALLOW);
        let device = self.device.policy(DEVICE_KEY, ALLOW);
        policy.strictest(device).strictest(self.device_most.policy(DEVICE_KEY, MOST))
    }
}

/// Reads the machine's keys, in the 64 bit view as the system does.
#[cfg(windows)]
#[must_use]
pub fn read() -> Policy {
    use winreg::RegKey;
    use winreg::enums::{HKEY_LOCAL_MACHINE, KEY_READ, KEY_WOW64_64KEY, REG_DWORD};

    let value = |key: &str, name: &str| {
        let found = RegKey::predef(HKEY_LOCAL_MACHINE)
            .open_subkey_with_flags(key, KEY_READ | KEY_WOW64_64KEY)
            .and_then(|k| k.get_raw_value(name));
        match found {
            Ok(v) if v.vtype == REG_DWORD => match <[u8; 4]>::try_from(v.bytes.as_ref()) {
                Ok(bytes) => Value::Dword(u32::from_le_bytes(bytes)),
                Err(_) => Value::OtherType("a DWORD of the wrong size".to_owned()),
            },
            Ok(v) => Value::OtherType(format!("{:?}", v.vtype)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Value::Absent,
            Err(e) => Value::Unreadable(e.to_string()),
        }
    };
    let values = Values {
        policy: value(POLICY_KEY, ALLOW),
        device: value(DEVICE_KEY, ALLOW),
        device_most: value(DEVICE_KEY, MOST),
    };
    values.ceiling()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_proto::level::TelemetryLevel::{Basic, Full, Security};

    fn ceiling(policy: Value, device: Value, device_most: Value) -> Policy {
        Values { policy, device, device_most }.ceiling()
    }

    #[test]
    fn the_strictest_of_both_keys_counts() {
        use Value::{Absent, Dword};
        assert_eq!(ceiling(Absent, Absent, Absent), Policy::Absent);
        for (a, b, c, level) in [
            (Dword(3), Absent, Absent, Full),
            (Dword(1), Dword(3), Absent, Basic),
            (Dword(3), Dword(1), Absent, Basic),
            (Absent, Dword(3), Dword(1), Basic),
            (Dword(0), Dword(3), Dword(3), Security),
        ] {
            assert_eq!(ceiling(a, b, c), Policy::Ceiling { level, enabled: true });
        }
    }

    #[test]
    fn a_value_that_does_not_hold_is_level_0_and_names_its_key() {
        let bad = [
            Value::Dword(4),
            Value::Dword(u32::MAX),
            Value::OtherType("REG_SZ".to_owned()),
            Value::Unreadable("access is denied".to_owned()),
        ];
        for value in bad {
            let Policy::Broken(why) = ceiling(Value::Dword(3), value.clone(), Value::Absent) else {
                panic!("{value:?}")
            };
            assert!(why.contains(DEVICE_KEY) && why.contains(ALLOW) && why.contains("level 0"), "{why}");
        }
    }
}
