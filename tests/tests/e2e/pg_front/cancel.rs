//! Cancel requests of strangers: nothing at the target stops. What a storm of them costs others is measured by the benchmark.

use std::time::Duration;

use casemate_tests::noise::Noise;
use casemate_tests::pg_client::Access;
use casemate_tests::raw_pg::{RawPg, VERSION_3_2, message};
use casemate_tests::scale::pick;

use super::{lab, through};
use crate::only_session;

/// Sends a cancel request and waits for the end of the connection, as libpq does.
fn cancel(access: &Access, pid: u32, key: &[u8]) {
    // In clear, which is taken: what is cancelled is told by the key alone.
    let mut client = RawPg::open(access).unwrap();
    client.send(&message::cancel_request(pid, key)).unwrap();
    let _ = client.read_to_end();
}

#[test]
fn wrong_keys_stop_nothing_however_many_there_are() {
    let lab = lab();
    let access = through(&lab);
    let (mut client, greeting) = RawPg::login_as(&access, VERSION_3_2, &[]).unwrap();
    let (pid, key) = greeting.key.unwrap();
    assert_eq!(key.len(), 32);
    client.send(&message::query(b"select pg_sleep(3600)")).unwrap();
    let mut noise = Noise::new(0xca7ce1);
    for guess in 0..pick(300, 10_000) {
        let mut wrong = key.clone();
        // Near misses and wild ones.
        match guess % 3 {
            0 => wrong[noise.below(32) as usize] ^= 1 << noise.below(8),
            1 => wrong.truncate(4 + noise.below(28) as usize),
            _ => wrong.iter_mut().for_each(|byte| *byte = noise.below(256) as u8),
        }
        cancel(&access, if guess % 5 == 0 { pid ^ 1 } else { pid }, &wrong);
    }
    assert!(client.is_silent_for(Duration::from_millis(300)).unwrap(), "it sleeps on");
    // The pace at which they came is no reason to refuse the one that is right, once it slows down.
    std::thread::sleep(Duration::from_secs(3));
    cancel(&access, pid, &key);
    let frames = client.read_to(b'Z').unwrap();
    assert!(frames.iter().any(|frame| frame.field(b'C').as_deref() == Some("57014")), "{frames:?}");
    drop(client);
    let transcript = only_session(&lab.vault());
    let asked: Vec<_> = transcript.of("pg.cancel").collect();
    assert_eq!(asked.len(), 1, "what was no key of it is not in its record: {asked:?}");
    assert_eq!((&asked[0]["forwarded"], &asked[0]["tls"]), (&1.into(), &"".into()));
}
