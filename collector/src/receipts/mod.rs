//! Receipts: what each delivery left in the ring's chain [`Chain::Receipts`](tidegate_ring::Chain),
//! read back, compared with what the far side holds, and written out for an auditor.

mod export;
mod read;
mod reconcile;
#[cfg(test)]
mod tests;

pub use export::{Export, Exported, README};
pub use read::{Entry, Object, Receipt};
pub use reconcile::{Finding, Named, Reconciler, Report};
