//! SSH: the front door for clients and the leg to the target.
//!
//! `server` answers the client and asks `flow` and `login` what is allowed, `client` speaks to the target, `relay`
//! forwards what is recorded, `files` tells what happens to files, `backlog` counts what waits and `wire` holds back what must
//! wait. Targets are dialled by `target` of the crate alone, on a grant. `desk` is what somebody meets who names no target,
//! and `jump` with `pipe` what `ssh -J` makes of such a connection. A channel carries a program or a forwarded connection:
//! `tape` is how it is recorded, `passage` where the latter leads, and `listeners` with `arrivals` what `ssh -R` makes of it.

mod arrivals;
mod backlog;
mod channels;
mod clear;
mod client;
mod desk;
mod farewell;
pub mod files;
mod flood;
mod flow;
mod gather;
pub(crate) mod jump;
mod listeners;
mod login;
mod menu;
mod outlet;
mod passage;
pub(crate) mod pipe;
mod reach;
mod relay;
mod said;
pub(crate) mod server;
pub(crate) mod settings;
mod tape;
mod watch;
pub(crate) mod wire;

pub(crate) use backlog::Backlog;
pub(crate) use client::offer;

use russh::Sig;

/// The name of a signal as RFC 4254 §6.10 writes it.
fn signal_name(signal: &Sig) -> &str {
    match signal {
        Sig::ABRT => "ABRT",
        Sig::ALRM => "ALRM",
        Sig::FPE => "FPE",
        Sig::HUP => "HUP",
        Sig::ILL => "ILL",
        Sig::INT => "INT",
        Sig::KILL => "KILL",
        Sig::PIPE => "PIPE",
        Sig::QUIT => "QUIT",
        Sig::SEGV => "SEGV",
        Sig::TERM => "TERM",
        Sig::USR1 => "USR1",
        Sig::Custom(name) => name,
    }
}
