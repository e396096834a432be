//! What has broken other relays of this protocol, once each, on the wire: at the target itself and on the way through.
//!
//! | | |
//! |---|---|
//! | SQL that is not UTF-8 | `bytes` |
//! | greased versions, protocol 3.2 | `startup::a_greased_start_…`, `startup::protocol_3_2_…` |
//! | channel binding | `startup::psql_can_demand_channel_binding`, `startup::a_client_that_was_told_less_…` |
//! | direct TLS, GSS first, plaintext after SSLRequest | `startup::direct_tls_…`, `startup::gss_…`, `startup::plaintext_…` |
//! | cancelling | `cancel` |
//! | errors in pipelines, drivers that only flush | `pipeline` |
//! | COPY IN with early Sync, failing, late CopyDone | `copy` |
//! | very large rows and values | `large` |
//! | names of statements and portals | `names` |

mod bytes;
mod cancel;
mod copy;
mod large;
mod names;
mod pipeline;
mod startup;

use casemate_tests::pg_client::{Access, PgRoute};
use casemate_tests::raw_pg::{Frame, RawPg, tags};
use casemate_tests::rig::Lab;

/// Has the same conversation along every route, and returns what the server said: the same on each.
fn same(lab: &Lab, talk: impl Fn(&Access, &mut RawPg) -> Vec<Frame>) -> Vec<Frame> {
    let mut said = PgRoute::ALL.map(|route| {
        let access = lab.pg_access(route).unwrap();
        let mut client = RawPg::login(&access).unwrap_or_else(|error| panic!("{route:?}: {error:#}"));
        let mut frames = talk(&access, &mut client);
        // Whatever came before: both sides must still agree on where they are.
        let alive = client.query("select 'in step'").unwrap();
        assert_eq!((tags(&alive).as_str(), first_value(&alive)), ("TDCZ", Some(b"in step".to_vec())), "{route:?}");
        frames.extend(alive);
        (route, frames)
    });
    let straight = std::mem::take(&mut said[0].1);
    for (route, frames) in &said[1..] {
        assert!(*frames == straight, "{route:?}: {frames:?}\nstraight: {straight:?}");
    }
    straight
}

/// The first value of the first row.
fn first_value(frames: &[Frame]) -> Option<Vec<u8>> {
    frames.iter().find(|frame| frame.tag == b'D')?.row().into_iter().next()?
}

/// The SQLSTATE of the first error.
fn sqlstate(frames: &[Frame]) -> Option<String> {
    frames.iter().find(|frame| frame.tag == b'E')?.field(b'C')
}
