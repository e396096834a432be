//! How a bucket is listed and read, where that takes more than one answer.

use std::time::Duration;

use casemate_tests::s3::faults::{Fault, Faults, Seen};
use tokio::task::JoinSet;

use crate::verify::{BUCKET, NODE, PREFIX, Shelf, ministack_with, nothing_more, recorded};

/// A page holds a thousand.
const NAMES: usize = 1010;

#[tokio::test]
async fn what_lies_behind_a_thousand_other_names_is_found_all_the_same() {
    let recorded = recorded(Duration::ZERO, nothing_more).await;
    let (_dir, _server, shelf) = ministack_with(&recorded).await;
    let before = shelf.verify(&recorded, &[]);
    assert_eq!(before.code, 0, "{}", before.last);

    // In the order of names all of them come before what was recorded.
    for dir in ["v1/t/2001/02/03".to_owned(), format!("v1/log/{NODE}/tile/-")] {
        let mut puts = JoinSet::new();
        for number in 0..NAMES {
            let put = shelf.client.put_object().bucket(BUCKET).key(format!("{PREFIX}/{dir}/{number:04}"));
            puts.spawn(put.send());
            if puts.len() >= 32 {
                puts.join_next().await.unwrap().unwrap().unwrap();
            }
        }
        puts.join_all().await.into_iter().for_each(|put| drop(put.unwrap()));
    }
    let verdict = shelf.verify(&recorded, &[]);
    assert_eq!((verdict.code, &verdict.sessions), (0, &before.sessions), "{}", verdict.last);
    assert_eq!(verdict.last["storage"], before.last["storage"]);
    assert!(verdict.list("remarks").contains("v1/t/2001/02/03/0000: does not belong"), "{}", verdict.last["remarks"]);

    // And what lies over evidence there.
    let (tile, segment) = (shelf.name("/tile/entries/").await, shelf.name(&recorded.sessions[1]).await);
    shelf.hide(&tile).await;
    shelf.put(&segment, b"nothing to see".to_vec(), None).await;
    let verdict = shelf.verify(&recorded, &[]);
    verdict.is(1, "exceptions", "/tile/entries/");
    verdict.is(1, "altered_findings", &recorded.sessions[1]);
}

#[tokio::test]
async fn a_server_that_tells_of_locks_apart_is_asked_apart() {
    let recorded = recorded(Duration::ZERO, nothing_more).await;
    let (_dir, server, shelf) = ministack_with(&recorded).await;
    let before = shelf.verify(&recorded, &[]);
    let relay = Faults::before(server.port).unwrap();
    let shelf = Shelf { endpoint: relay.endpoint(), ..shelf };
    let is_content = |seen: &Seen| seen.method == "GET" && seen.query.contains("versionId");
    relay.spoil(Fault::AnswerHeader("x-amz-object-lock-mode", String::new()), is_content);
    let verdict = shelf.verify(&recorded, &[]);
    assert_eq!((verdict.code, &verdict.last["storage"]), (0, &before.last["storage"]), "{}", verdict.last);
    // Every version once each way.
    let (seen, versions) = (relay.seen(), before.last["storage"]["versions"].as_u64().unwrap() as usize);
    assert_eq!(seen.iter().filter(|seen| is_content(seen)).count(), versions);
    assert_eq!(seen.iter().filter(|seen| seen.method == "HEAD").count(), versions);
}
