//! How a channel ends when it is not the target that ends it in good order: one line, an exit status, and the record.
//!
//! Everything here is bounded in time, because the client may not read. Forwards nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use casemate_recorder::transcript::event::{Event, Side, chan_close, ended, shown};
use casemate_recorder::transcript::seal::CloseReason;
use russh::{ChannelWriteHalf, server};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client::Answer;
use super::relay::Outer;
use super::said::Up;
use crate::session::{End, Session};

/// The exit status of a session that the bastion could not begin or had to end, as of ssh itself.
pub(super) const FAILED: u32 = 255;

/// The exit status of a session that a rule ended.
const CUT: u32 = 254;

/// How long a client may take to ask for a program that it will not get.
pub(super) const DOOM: Duration = Duration::from_secs(10);

/// How long the last words may take towards a client that does not read.
const FAREWELL: Duration = Duration::from_secs(2);

/// How a relay ended.
pub(super) enum Finish {
    /// The target closed the channel, and the client was told all of it.
    Closed,
    /// The connection to the target ended without that.
    Lost { exited: bool },
    /// The client left, and the target had its time to notice.
    ClientGone,
    /// The session was ended.
    Ended(End),
    /// The target refused what the client was told that it has.
    Refused(&'static str),
    /// The client sent more than can be queued.
    Overrun,
}

/// A terminal in raw mode needs the carriage return.
pub(super) fn line(text: &str, pty: bool) -> String {
    let end = if pty { "\r\n" } else { "\n" };
    format!("{text}{end}")
}

/// Does and records what follows from how a relay to the named target ended.
pub(super) async fn conclude(outer: &Outer, target: &str, finish: Finish) {
    let (session, chan) = (&outer.session, outer.chan);
    match finish {
        Finish::Closed => session.note_last(End::quiet(CloseReason::Target, "the target closed the last channel")),
        Finish::ClientGone => session.note_last(End::quiet(CloseReason::Client, "the client left")),
        Finish::Lost { exited } => {
            let text = format!("the connection to {target} was lost");
            session.note_last(End::quiet(CloseReason::Target, text.as_str()));
            note_closed(session, chan, &text);
            let status = (!exited).then_some(FAILED);
            farewell(outer, (!exited).then_some(text.as_str()), status).await;
        }
        Finish::Refused(what) => {
            let text = format!("{target} refused the request {what}");
            session.note_last(End::quiet(CloseReason::Target, text.as_str()));
            note_closed(session, chan, &text);
            farewell(outer, Some(&text), Some(FAILED)).await;
        }
        Finish::Overrun => {
            let text = "more was sent than the target takes";
            note_closed(session, chan, text);
            farewell(outer, Some(text), Some(FAILED)).await;
        }
        Finish::Ended(end) => {
            note_closed(session, chan, &end.text);
            let status = if end.reason == CloseReason::Policy { CUT } else { FAILED };
            farewell(outer, end.notice.as_deref(), Some(status)).await;
        }
    }
}

fn note_closed(session: &Session, chan: u32, reason: &str) {
    drop(
        session
            .record(Side::Target, Event::map(ended::TYPE, chan).with(ended::BY, "bastion").with(ended::REASON, reason)),
    );
    let event = Event::map(chan_close::TYPE, chan).with(chan_close::SIDE, 2u32).with(chan_close::REASON, reason);
    drop(session.record(Side::Target, event));
}

/// Says one line, the exit status and goodbye, as far as the client takes them in time.
async fn farewell(outer: &Outer, notice: Option<&str>, status: Option<u32>) {
    let text = notice.map(|notice| format!("casemate: {notice}"));
    if let Some(text) = &text {
        let event = Event::map(shown::TYPE, outer.chan).with(shown::WHAT, "end").with(shown::TEXT, text.as_str());
        // A frozen recorder cannot take it, and the person must be told all the same: no session byte is in it.
        let _ = timeout(FAREWELL / 2, outer.session.record(Side::Target, event).receipt()).await;
    }
    let text = text.map(|text| line(&text, outer.shape.pty.load(Ordering::SeqCst)));
    last_words(&outer.write, text, status, &outer.gone).await;
}

/// Writes the end of a channel to the client: a line on standard error, the exit status, end of file, close.
pub(super) async fn last_words(
    write: &ChannelWriteHalf<server::Msg>,
    text: Option<String>,
    status: Option<u32>,
    gone: &CancellationToken,
) {
    let words = async {
        if let Some(text) = text {
            let _ = timeout(FAREWELL, write.extended_data_bytes(1, text)).await;
        }
        if let Some(status) = status {
            let _ = write.exit_status(status).await;
        }
        let _ = write.eof().await;
        let _ = write.close().await;
    };
    tokio::select! {
        () = gone.cancelled() => {}
        _ = timeout(FAREWELL * 2, words) => {}
    }
}

/// Lets the client ask for its program, so that the reason comes where a person looks, and ends the channel.
pub(super) async fn doom(outer: &mut Outer, text: &str) {
    let session = Arc::clone(&outer.session);
    let asked = async {
        loop {
            match outer.up.recv().await {
                Some(Up::Ask { request, ticket, answer }) => {
                    let program = request.starts_program();
                    // The target says nothing to it: the record has the request and why there was no answer.
                    let _ = answer.send(Answer { success: true, ticket });
                    if program {
                        break true;
                    }
                }
                Some(Up::Close { .. }) | None => break false,
                Some(_) => {}
            }
        }
    };
    let listening = tokio::select! {
        biased;
        _ = session.ended() => true,
        listening = asked => listening,
        () = sleep(DOOM) => true,
    };
    if listening {
        note_closed(&session, outer.chan, text);
        farewell(outer, Some(text), Some(FAILED)).await;
    }
}
