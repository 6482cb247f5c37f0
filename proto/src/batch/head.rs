//! The fixed columns of an event, and the keys of its extended items.

use crate::level::TelemetryLevel;

/// A process or thread id that the input does not tell.
pub const NO_ID: u32 = u32::MAX;
/// A processor number that the input does not tell.
pub const NO_CPU: u16 = u16::MAX;

/// The fixed columns of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Nanoseconds since 1970, UTC.
    pub time_ns: i64,
    /// ETW keyword bits.
    pub keyword: u64,
    /// Privacy data-type tags (`PartA_PrivTags`).
    pub priv_tags: u64,
    /// Process id or [`NO_ID`].
    pub pid: u32,
    /// Thread id or [`NO_ID`].
    pub tid: u32,
    /// Processor number or [`NO_CPU`].
    pub cpu: u16,
    /// Event id.
    pub id: u16,
    /// ETW task.
    pub task: u16,
    /// Event version.
    pub version: u8,
    /// ETW channel.
    pub channel: u8,
    /// ETW level: verbosity, not the telemetry level.
    pub level: u8,
    /// ETW opcode.
    pub opcode: u8,
    /// Activity id, zero = none.
    pub activity: [u8; 16],
    /// Related activity id, zero = none.
    pub related: [u8; 16],
    /// The telemetry level, if the event or the gate has given it one.
    pub telemetry_level: Option<TelemetryLevel>,
    /// Sampling: of a million such events so many are kept; 0 = all of them.
    pub sample_ppm: u32,
}

impl Default for Head {
    fn default() -> Head {
        Head {
            time_ns: 0,
            keyword: 0,
            priv_tags: 0,
            pid: NO_ID,
            tid: NO_ID,
            cpu: NO_CPU,
            id: 0,
            task: 0,
            version: 0,
            channel: 0,
            level: 0,
            opcode: 0,
            activity: [0; 16],
            related: [0; 16],
            telemetry_level: None,
            sample_ppm: 0,
        }
    }
}

macro_rules! ext_keys {
    ($($(#[$m:meta])* $v:ident = $n:literal $s:literal,)*) => {
        /// What an extended item of an event is. The numbers are stored.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ExtKey { $($(#[$m])* $v = $n,)* }
        impl ExtKey {
            /// Every key.
            pub const ALL: &'static [ExtKey] = &[$(ExtKey::$v,)*];
            /// Its name in JSON.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(ExtKey::$v => $s,)* } }
            /// The key of a stored number.
            #[must_use]
            pub fn from_u32(n: u32) -> Option<ExtKey> { match n { $($n => Some(ExtKey::$v),)* _ => None } }
        }
    };
}

ext_keys! {
    /// Something that no other key names.
    Other = 0 "other",
    /// Security identifier of the logging user.
    Sid = 1 "sid",
    /// Terminal services session.
    TsId = 2 "tsId",
    /// Instance id and parent.
    InstanceInfo = 3 "instanceInfo",
    /// Call stack, an array of pointers.
    Stack = 4 "stack",
    /// Precise event-based sampling index.
    Pebs = 5 "pebs",
    /// Performance counters, an array.
    Pmc = 6 "pmc",
    /// Partial sequence of a sampled manifest.
    PsmKey = 7 "psmKey",
    /// Event key.
    EventKey = 8 "eventKey",
    /// Process start key: unique over a boot.
    ProcessStartKey = 9 "processStartKey",
    /// Control GUID of a WPP provider.
    ControlGuid = 10 "controlGuid",
    /// QPC delta.
    QpcDelta = 11 "qpcDelta",
    /// Container the event came from.
    ContainerId = 12 "containerId",
    /// Processor time of the thread, in 100 ns or cycles as the header has it.
    ProcessorTime = 13 "processorTime",
    /// Key of a call stack kept elsewhere.
    StackKey = 14 "stackKey",
    /// User part of the thread's time.
    UserTime = 15 "userTime",
    /// Kernel part of the thread's time.
    KernelTime = 16 "kernelTime",
    /// Instance id.
    InstanceId = 17 "instanceId",
    /// Parent instance id.
    ParentInstanceId = 18 "parentInstanceId",
    /// Class of the parent instance.
    ParentGuid = 19 "parentGuid",
    /// Sequence number of a message.
    Sequence = 20 "sequence",
}
