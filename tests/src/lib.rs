//! The harness: a real sshd as target, a real bastion before it, stock clients, and oracles of their own.
//!
//! The rig, the demo, the benchmarks and every end-to-end test stand on this code. It reaches the product only as a
//! person would: by its programs, its configuration file, its sockets and its vault. It refuses to know how any of
//! them work inside, so a test can never agree with the code by sharing it. Three modules know more: [`disk`] and [`clocks`] stand
//! behind the recorder's seams to the filesystem and to time, and [`forge`] knows the format, as an attacker does.

pub mod bastion;
pub mod bins;
pub mod client;
pub mod clocks;
pub mod decoders;
pub mod disk;
pub mod duplex;
pub mod forge;
pub mod keys;
pub mod noise;
pub mod officer;
pub mod oracle;
pub mod pg_client;
pub mod pg_log;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod pty;
pub mod raw_pg;
pub mod raw_ssh;
pub mod rig;
pub mod s3;
pub mod scale;
pub mod scrape;
pub mod sshd;
pub mod tmpfs;
pub mod vault;
pub mod vectors;
pub mod x509;
