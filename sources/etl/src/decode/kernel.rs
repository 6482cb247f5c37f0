//! Classic kernel classes. Sources: the group numbers and classes of the Windows headers as
//! listed in dissect.etl's `utils.py`; event names and layouts in perfview's
//! KernelTraceEventParser.cs (MIT).

/// Class GUIDs of the groups, in text form.
const CLASSES: [(u8, &str, &str); 20] = [
    (0, "EventTrace", "68fdd900-4a3e-11d1-84f4-0000f80464e3"),
    (1, "DiskIo", "3d6fa8d4-fe05-11d0-9dda-00c04fd7ba7c"),
    (2, "PageFault", "3d6fa8d3-fe05-11d0-9dda-00c04fd7ba7c"),
    (3, "Process", "3d6fa8d0-fe05-11d0-9dda-00c04fd7ba7c"),
    (4, "FileIo", "90cbdc39-4a3e-11d1-84f4-0000f80464e3"),
    (5, "Thread", "3d6fa8d1-fe05-11d0-9dda-00c04fd7ba7c"),
    (6, "TcpIp", "9a280ac0-c8e0-11d1-84e2-00c04fb998a2"),
    (8, "UdpIp", "bf3a50c5-a9c9-4988-a005-2df0b7c80f80"),
    (9, "Registry", "ae53722e-c863-11d2-8659-00c04fa321a1"),
    (11, "SystemConfig", "01853a65-418f-4f36-aefc-dc0f1d2fd235"),
    (15, "PerfInfo", "ce1dbfb4-137e-4da6-87b0-3f59aa102cbc"),
    (16, "Heap", "222962ab-6180-4b88-a825-346b75f2a24a"),
    (17, "Object", "89497f50-effe-4440-8cf2-ce6b1cdcaca7"),
    (18, "Power", "e43445e0-0903-48c3-b878-ff0fccebdd04"),
    (20, "Image", "2cb15d1d-5fc1-11d2-abe1-00a0c911f518"),
    (21, "Dpc", "b2d14872-7c5b-463d-8419-ee9bf7d23e04"),
    (24, "StackWalk", "def2fe46-7bd6-4b80-bd94-f57fe20d0ce3"),
    (26, "ALPC", "45d8cccd-539f-4b72-a8b7-5c683142609a"),
    (27, "SplitIo", "d837ca92-12b9-44a5-ad6a-3a65b3578aa8"),
    (28, "ThreadPool", "c861d0e2-a2c1-4d36-9f9c-970bab943a12"),
];
const PROCESS: u8 = 3;
const IMAGE: u8 = 20;
const IMAGE_LOAD: u8 = 10;

/// The class of a kernel record; zero = a group without a known one.
pub(crate) fn kernel_class(group: u8, opcode: u8) -> [u8; 16] {
    static GUIDS: LazyLock<[[u8; 16]; 256]> = LazyLock::new(|| {
        let mut all = [[0; 16]; 256];
        for (group, _, text) in CLASSES {
            if let (Some(slot), Some(class)) = (all.get_mut(usize::from(group)), guid::parse(text)) {
                *slot = class;
            }
        }
        all
    });
    let group = if (group, opcode) == (PROCESS, IMAGE_LOAD) { IMAGE } else { group };
    GUIDS.get(usize::from(group)).copied().unwrap_or_default()
}

use std::sync::LazyLock;
use tidegate_proto::guid;
