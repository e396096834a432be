//! What the logs order about sessions that rest in a bucket: which must be held, and which may go at last.

use std::collections::HashSet;

use casemate_certs::trust::TrustFile;
use casemate_recorder::transcript::block::SessionId;

use super::judge::excuse;
use super::{Options, anchors, examine};
use crate::ReplayError;
use crate::vault::Vault;

/// What is to be done to a bucket.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// Sessions on which a legal hold stands.
    pub(crate) hold: Vec<SessionId>,
    /// Sessions of which the hold was lifted, by two officers.
    pub(crate) release: Vec<SessionId>,
    /// Sessions that were retired, and whose time is over by an anchor.
    pub(crate) delete: Vec<SessionId>,
    /// Sessions that were retired and may not go, with the reason.
    pub(crate) kept: Vec<(SessionId, &'static str)>,
    /// Why nothing that cannot be undone may be done: what is altered of the logs.
    pub(crate) altered: Vec<String>,
    /// Why nothing may be done at all.
    pub(crate) undecided: Vec<String>,
}

/// Reads the logs whole, and no session. Orders count by the same rules by which `verify` excuses what is absent.
pub(crate) fn orders(vault: &Vault, options: &Options) -> Result<Orders, ReplayError> {
    let trust = options.trust.as_deref().map(anchors::read_trust).transpose()?;
    let findings = examine(vault, trust.as_ref(), &[], None, options)?;
    let mut orders = Orders { undecided: findings.undecided.clone(), ..Orders::default() };
    orders.altered = findings.all_altered();
    // Whoever may say that a hold is lifted is named by a trust file that counts.
    if let Some(doubt) = trust.as_ref().and_then(|file: &TrustFile| file.believe(options.now_us).err()) {
        orders.undecided.push(doubt.to_string());
    }
    let mut seen = HashSet::new();
    orders.undecided.retain(|why| seen.insert(why.clone()));
    for node in &findings.nodes {
        orders.hold.extend(&node.held);
        orders.release.extend(&node.released);
        for (session, retain_until_us) in &node.retired {
            match excuse(node, *session, *retain_until_us, options.now_us) {
                Ok(()) => orders.delete.push(*session),
                Err(why) => orders.kept.push((*session, why)),
            }
        }
    }
    orders.hold.sort_unstable();
    orders.release.sort_unstable();
    orders.delete.sort_unstable();
    orders.kept.sort_unstable();
    Ok(orders)
}
