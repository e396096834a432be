//! PostgreSQL, ended on both sides: the front door, the login at the target, the relay between them and what passed there.

pub mod auth;
pub mod cancel;
pub mod client;
pub mod codec;
pub mod flow;
pub(crate) mod front;
pub mod live;
mod login;
pub mod parameters;
pub mod redact;
mod relay;
pub(crate) mod server;
pub mod startup;
mod tape;
pub mod tls;
mod work;

#[cfg(test)]
mod testing;
