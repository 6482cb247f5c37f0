//! The device's identity: a random id, made at the first start and kept with the ring. It is
//! derived from nothing and can be made anew at any time.

use ring::rand::{SecureRandom as _, SystemRandom};
use tidegate_ring::{Ring, RingError};

use crate::audit::{Record, What, hex};
use crate::clock::now_ns;
use crate::control::Who;

/// Where it is kept.
const KEY: &str = "device.id";

fn fresh() -> Result<String, RingError> {
    let mut bytes = [0; 16];
    let failed = |_| RingError::Book("the system gives no random bytes for a device id".to_owned());
    SystemRandom::new().fill(&mut bytes).map_err(failed)?;
    Ok(hex(&bytes))
}

/// The id, 32 hexadecimal digits; made where there is none yet.
///
/// # Errors
/// When the ring's book cannot be read or written.
pub fn id(ring: &dyn Ring) -> Result<String, RingError> {
    let kept = ring.get(KEY)?.and_then(|v| String::from_utf8(v).ok());
    if let Some(id) = kept.filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Ok(id);
    }
    let id = fresh()?;
    ring.put(KEY, Some(id.as_bytes()))?;
    Ok(id)
}

/// Makes the id anew, which cannot be linked to the one before. The audit log says that it was
/// done, and neither id.
///
/// # Errors
/// When the ring's book cannot be written.
pub fn reset(ring: &dyn Ring, who: &Who) -> Result<String, RingError> {
    let id = fresh()?;
    ring.put(KEY, Some(id.as_bytes()))?;
    let what = What::DeviceId { reason: "reset on request".to_owned() };
    Record::new(now_ns(), &who.0, what).append(ring)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use tidegate_ring::{Chain, MemoryRing, RingOptions};

    use super::*;

    #[test]
    fn an_id_stays_until_it_is_reset_and_the_log_shows_none() {
        let ring = MemoryRing::shared(RingOptions::default());
        let first = id(&*ring).unwrap();
        assert_eq!((first.len(), id(&*ring).unwrap()), (32, first.clone()));
        let second = reset(&*ring, &Who("me".to_owned())).unwrap();
        assert!(first != second && id(&*ring).unwrap() == second);
        let log = ring.chain_read(Chain::Audit, 1, 10).unwrap();
        let text = String::from_utf8_lossy(&log[0].data).into_owned();
        assert!(text.contains("device_id") && !text.contains(&first) && !text.contains(&second), "{text}");
        ring.put(KEY, Some(b"nonsense")).unwrap();
        assert_eq!(id(&*ring).unwrap().len(), 32);
    }
}
