//! What a throwaway Ceph is told, and how one finds out that it answers. Only [`super::ceph`] asks.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use super::ceph::Store;
use crate::noise::{Noise, fresh_seed};

/// The cluster's name for itself. Clusters never meet, so all of them may have the same.
pub(super) const CLUSTER: &str = "5d6bd3ae-0000-4000-8000-000000000001";

/// Where the parts of a server are.
pub(super) struct Place {
    pub(super) dir: PathBuf,
    pub(super) gateway: u16,
    pub(super) monitor: u16,
    pub(super) store: Store,
}

impl Place {
    pub(super) fn monitor_address(&self) -> String {
        format!("[v2:127.0.0.1:{}/0]", self.monitor)
    }
}

/// Returns the configuration of all parts.
///
/// Nobody proves who they are inside, and nothing is encrypted there: it is loopback, and the gateway, which is what is tested, checks
/// everybody. The two lines about `paxos` decide about a second for each of the pools that the first user brings.
pub(super) fn render(place: &Place) -> String {
    let at = place.dir.display();
    let (objects, size) = match place.store {
        Store::Memory => ("memstore", "memstore device bytes = 4294967296"),
        Store::File => ("bluestore", "bluestore block size = 4294967296"),
    };
    // Above the range that the kernel takes for outgoing connections. Several servers may have the same: each takes what is free, from
    // the lower end, and one that finds nothing tries again only after five seconds.
    let lower = 61_000 + Noise::new(fresh_seed() ^ u64::from(std::process::id())).below(3_000);
    let upper = lower + 1_000;
    format!(
        "[global]\n\
         fsid = {CLUSTER}\n\
         mon host = {}\n\
         public addr = 127.0.0.1\n\
         cluster addr = 127.0.0.1\n\
         ms bind ipv6 = false\n\
         ms bind msgr1 = false\n\
         ms bind port min = {lower}\n\
         ms bind port max = {upper}\n\
         auth cluster required = none\n\
         auth service required = none\n\
         auth client required = none\n\
         ms mon client mode = crc\n\
         ms mon service mode = crc\n\
         ms mon cluster mode = crc\n\
         ms client mode = crc\n\
         ms service mode = crc\n\
         ms cluster mode = crc\n\
         run dir = {at}\n\
         crash dir = {at}\n\
         admin socket =\n\
         log file = {at}/$name.log\n\
         keyring = {at}/keyring\n\
         mon data = {at}/mon\n\
         mon cluster log file = {at}/cluster.log\n\
         mon allow pool size one = true\n\
         mon max pg per osd = 2000\n\
         mon data avail crit = 1\n\
         mon warn on pool no redundancy = false\n\
         paxos propose interval = 0.05\n\
         paxos min wait = 0.01\n\
         osd data = {at}/osd\n\
         osd journal = {at}/osd/journal\n\
         osd objectstore = {objects}\n\
         {size}\n\
         bluestore cache autotune = false\n\
         bluestore cache size = 67108864\n\
         osd class update on start = false\n\
         osd op num shards = 2\n\
         osd pool default size = 1\n\
         osd pool default min size = 1\n\
         osd pool default pg num = 1\n\
         osd pool default pgp num = 1\n\
         osd pool default pg autoscale mode = off\n\
         osd crush chooseleaf type = 0\n\
         rgw data = {at}\n\
         rgw frontends = beast endpoint=127.0.0.1:{}\n\
         rgw thread pool size = 32\n\
         rgw enable usage log = false\n",
        place.monitor_address(),
        place.gateway,
    )
}

/// Tells whether a gateway answers on that port, with whatever status.
pub(super) fn answers(port: u16) -> bool {
    let asked = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut begins = [0; 9];
        stream.read_exact(&mut begins)?;
        Ok(&begins == b"HTTP/1.1 ")
    };
    asked().unwrap_or(false)
}
