//! Who is to be believed: the trust file, the keys of nodes, and key files on disk.
//!
//! [`trust`], [`vkey`] and [`ssh_ca`] are sans-IO: text in, values out. [`keys`] is the only module that opens files. [`fields`] is
//! the TOML reader that every configuration file of Casemate goes through.

pub mod fields;
pub mod keys;
pub mod ssh_ca;
pub mod trust;
pub mod vkey;
