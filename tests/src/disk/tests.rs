//! The disk keeps what POSIX promises, and nothing more.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic in a test is a failing test")]

use std::collections::BTreeSet;

use super::*;

const DIR: &str = "/d";

fn disk() -> Disk {
    Disk::new(&[Path::new(DIR)])
}

fn at(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

#[test]
fn what_was_not_synced_is_seen_and_gone_after_a_power_cut() {
    let disk = disk();
    let file = disk.create(&at("a")).unwrap();
    file.write_at(0, b"synced").unwrap();
    file.sync_data().unwrap();
    assert!(disk.state().power_cut(Luck::none()).read(&at("a")).is_err(), "the name was not synced");
    disk.sync_dir(Path::new(DIR)).unwrap();
    file.write_at(6, b" and not").unwrap();
    assert_eq!(disk.read(&at("a")).unwrap(), b"synced and not");
    assert_eq!(disk.state().power_cut(Luck::none()).read(&at("a")).unwrap(), b"synced");
    assert_eq!(disk.state().power_cut(Luck::all()).read(&at("a")).unwrap(), b"synced and not");
}

#[test]
fn unsynced_sectors_land_in_every_combination() {
    let disk = disk();
    let file = disk.create(&at("a")).unwrap();
    file.set_len(3 * SECTOR_LEN).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    file.write_at(0, &[1; 3 * SECTOR_LEN as usize]).unwrap();
    let outcomes: BTreeSet<Vec<u8>> = (0..500)
        .map(|seed| {
            let bytes = disk.state().power_cut(Luck::of(seed)).read(&at("a")).unwrap();
            bytes.chunks(SECTOR_LEN as usize).map(|sector| sector.iter().copied().max().unwrap()).collect()
        })
        .collect();
    assert_eq!(outcomes.len(), 8, "{outcomes:?}");
}

#[test]
fn names_land_in_any_subset_or_in_order() {
    let disk = disk();
    for name in ["a", "b", "c"] {
        disk.create(&at(name)).unwrap();
    }
    disk.rename(&at("a"), &at("z")).unwrap();
    let outcomes: BTreeSet<Vec<String>> =
        (0..500).map(|seed| disk.state().power_cut(Luck::of(seed)).list(Path::new(DIR)).unwrap()).collect();
    let have = |names: &[&str]| outcomes.contains(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    assert!(have(&[]) && have(&["c"]) && have(&["a", "b"]) && have(&["b", "c", "z"]) && !have(&["a", "z"]));
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(disk.state().power_cut(Luck::none()).list(Path::new(DIR)).unwrap(), ["b", "c", "z"]);
}

#[test]
fn a_file_in_a_directory_that_did_not_land_is_lost() {
    let disk = disk();
    disk.create_dir_all(&at("sub"), 0o700).unwrap();
    disk.create(&at("sub/a")).unwrap();
    disk.sync_dir(&at("sub")).unwrap();
    assert!(disk.state().power_cut(Luck::none()).open(&at("sub/a")).is_err());
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert!(disk.state().power_cut(Luck::none()).open(&at("sub/a")).is_ok());
}

#[test]
fn after_a_failed_sync_another_one_brings_nothing_back() {
    let disk = disk();
    let file = disk.create(&at("a")).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    file.write_at(0, b"lost").unwrap();
    disk.fail(disk.operations() + 1, Fault::Io, Luck::none());
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(disk.state().kill().read(&at("a")).unwrap(), b"lost");
    assert_eq!(disk.state().power_cut(Luck::none()).read(&at("a")).unwrap(), b"");
}

#[test]
fn only_the_chosen_operation_fails_and_a_short_write_leaves_a_part() {
    let disk = disk();
    let file = disk.create(&at("a")).unwrap();
    disk.fail(2, Fault::Short, Luck::of(7));
    assert!(file.write_at(0, &[9; 1000]).is_err());
    let left = disk.read(&at("a")).unwrap();
    assert!(!left.is_empty() && left.len() < 1000, "{}", left.len());
    file.write_at(0, &[9; 1000]).unwrap();
    disk.fail(disk.operations() + 1, Fault::NoSpace, Luck::none());
    assert_eq!(disk.create(&at("b")).unwrap_err().kind(), io::ErrorKind::StorageFull);
}
