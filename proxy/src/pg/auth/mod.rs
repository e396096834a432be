//! Logins: a client's at the bastion, and the bastion's at a target. Bytes in, bytes out; who may log in is for `policy`.

pub mod scram;
pub mod target;
