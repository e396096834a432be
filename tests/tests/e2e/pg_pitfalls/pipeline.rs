//! Pipelines: what an error takes with it, and drivers that never send Sync before they read.

use casemate_tests::raw_pg::message::{bind, close, describe, execute, flush, parse, query, sync};
use casemate_tests::raw_pg::tags;

use super::{first_value, same, sqlstate};
use crate::pg_clients::lab;

#[test]
fn an_error_takes_everything_up_to_sync_with_it() {
    let lab = lab();
    let frames = same(&lab, |_, client| {
        let good = [parse("", b"select 'good'", &[]), bind("", "", &[]), execute("", 0)].concat();
        let wire = [
            good.clone(),
            parse("", b"selec", &[]),
            // None of this is looked at: not the query either.
            query(b"select 'swallowed'"),
            good.clone(),
            close(b'S', ""),
            flush(),
            sync(),
            good,
            sync(),
            query(b"select 'after'"),
        ];
        client.send(&wire.concat()).unwrap();
        (0..3).flat_map(|_| client.read_to(b'Z').unwrap()).collect()
    });
    assert!(tags(&frames).starts_with("12DCEZ12DCZTDCZ"), "{}", tags(&frames));
    assert_eq!(sqlstate(&frames).unwrap(), "42601");
}

#[test]
fn an_error_in_one_of_many_batches_leaves_the_others() {
    let lab = lab();
    let frames = same(&lab, |_, client| {
        let divide = |by: &'static [u8]| [bind("", "d", &[Some(by)]), execute("", 0)].concat();
        let batches = [&b"1"[..], b"0", b"2", b"0", b"3"].map(|by| [divide(by), divide(b"1"), sync()].concat());
        client.send(&[parse("d", b"select 6 / $1::int", &[23]), batches.concat()].concat()).unwrap();
        (0..5).flat_map(|_| client.read_to(b'Z').unwrap()).collect()
    });
    assert!(tags(&frames).starts_with("12DC2DCZEZ2DC2DCZEZ2DC2DCZ"), "{}", tags(&frames));
}

#[test]
fn answers_come_after_flush_without_sync() {
    let lab = lab();
    let frames = same(&lab, |_, client| {
        let mut frames = Vec::new();
        client.send(&[parse("s", b"select $1::text", &[]), describe(b'S', "s"), flush()].concat()).unwrap();
        frames.extend(client.read_to(b'T').unwrap());
        assert_eq!(tags(&frames), "1tT");
        for value in [&b"one"[..], b"two"] {
            client.send(&[bind("", "s", &[Some(value)]), execute("", 0), flush()].concat()).unwrap();
            let answer = client.read_to(b'C').unwrap();
            assert_eq!((tags(&answer).as_str(), first_value(&answer).unwrap().as_slice()), ("2DC", value));
            frames.extend(answer);
        }
        client.send(&[close(b'S', "s"), sync()].concat()).unwrap();
        frames.extend(client.read_to(b'Z').unwrap());
        frames
    });
    assert!(tags(&frames).starts_with("1tT2DC2DC3Z"));
}

#[test]
fn a_deep_pipeline_does_not_wait_for_its_reader() {
    let lab = lab();
    let frames = same(&lab, |_, client| {
        // Far more answers than all buffers on the way hold, before the first of them is read.
        let row = [bind("", "r", &[Some(b"20000")]), execute("", 0)].concat();
        client.send(&parse("r", b"select repeat('x', $1::int)", &[23])).unwrap();
        let mut frames = Vec::new();
        for _ in 0..4 {
            client.send(&row.repeat(100)).unwrap();
            client.send(&sync()).unwrap();
            frames.extend(client.read_to(b'Z').unwrap());
        }
        frames
    });
    assert_eq!(tags(&frames).matches("2DC").count(), 400);
}
