use super::*;

#[test]
fn a_chain_keeps_its_anchor_when_old_entries_go() {
    let mut chain = ChainState { most_bytes: 40, ..ChainState::default() };
    let all: Vec<_> = (0..10).map(|n| chain.append(format!("entry {n}").as_bytes()).0).collect();
    assert_eq!(chain.anchor, (5, all[4].hash));
    assert_eq!(chain.read(0, 99), all[5..]);
    let mut loaded = ChainState { anchor: chain.anchor, ..ChainState::default() };
    assert!(loaded.load(all.clone()));
    assert_eq!(loaded.entries, chain.entries);
    let mut bad = all[6].clone();
    bad.data.push(0);
    let mut loaded = ChainState { anchor: chain.anchor, ..ChainState::default() };
    assert!(!loaded.load([all[5].clone(), bad]));
    assert_eq!(loaded.entries.len(), 1);
}
