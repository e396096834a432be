//! Who a client is: a token by SCRAM, a certificate, or the SSH connection around it.
//!
//! Asks in one order and says no in one way: what is wrong with a name, a target or a token is in the record alone.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;

use super::auth::scram::{Exchange, Refused};
use super::codec::{
    Complaint, Fields, INVALID_AUTHORIZATION, INVALID_PASSWORD, PROTOCOL_VIOLATION, SYSTEM_ERROR, put_frame, put_text,
};
use super::front::{Front, Refusal};
use super::parameters::Wishes;
use super::server::Approach;
use super::tls::{ServerTls, subject};
use crate::config::TargetKind;
use crate::policy::{Identity, Policy, Wanted};
use crate::server::Door;
use crate::tokens::Redeemed;

/// An Authentication message.
fn authentication(code: u32, rest: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    put_frame(&mut out, b'R', |out| {
        out.put_u32(code);
        out.put_slice(rest);
    });
    out.freeze()
}

/// What the login name asks for. In a tunnel person and target are settled: either may be left out, and no other be named.
pub(super) fn wanted(wishes: &Wishes, approach: &Approach) -> Option<Wanted> {
    let Some(tunnel) = &approach.tunnel else { return Wanted::parse(&wishes.login).ok() };
    let person = tunnel.identity.person();
    let target = Some(tunnel.target.name.clone());
    let wanted = Wanted::parse(&wishes.login).ok()?;
    let role = match wanted.target {
        // One name is the role at the target, unless it is the person's own.
        None => (wanted.person != person).then_some(wanted.person),
        Some(named) => {
            let here = named == tunnel.target.name || tunnel.target.aliases.contains(&named);
            (here && wanted.person == person).then_some(())?;
            wanted.role
        }
    };
    Some(Wanted { person: person.to_owned(), target, role })
}

/// How it was tried, the reason for the record, and what the client is told.
pub(super) type Unidentified = (&'static str, String, Refusal);

/// Has the client prove who it is; the error has the method, the reason for the record and what the client is told.
pub(super) async fn identify(
    front: &mut Front,
    wishes: &Wishes,
    approach: &Approach,
    door: &Door,
    policy: &Policy,
    tls: Option<&ServerTls>,
) -> Result<Identity, Unidentified> {
    let wanted = wanted(wishes, approach);
    let person = wanted.as_ref().map_or("", |wanted| wanted.person.as_str());
    let source = approach.source;
    let lost =
        |method| move |error: io::Error| (method, format!("left without logging in: {error}"), Refusal::from(error));
    let wrong = || {
        let login = wishes.login.escape_default();
        Complaint::new(INVALID_PASSWORD, format!("password authentication failed for user \"{login}\""))
            .hint("a token is had by: ssh PERSON@BASTION token TARGET")
    };
    if let Some(leaf) = &front.certificate {
        let (name, fingerprint) = subject(leaf);
        if name.as_deref() != Some(person) {
            let why = format!("the certificate is for {:?}", name.unwrap_or_default());
            let complaint = Complaint::new(INVALID_AUTHORIZATION, "the certificate is for somebody else");
            return Err(("certificate", why, complaint.into()));
        }
        let identity = policy
            .identify_by_certificate(person, fingerprint, source)
            .ok_or_else(|| ("certificate", "no such person".to_owned(), Refusal::Told(wrong())))?;
        front.stream.write_all(&authentication(0, b"")).await.map_err(lost("certificate"))?;
        return Ok(identity);
    }
    if let Some(tunnel) = &approach.tunnel
        && tunnel.target.pg().is_some_and(|service| !service.tunnel_token)
    {
        front.stream.write_all(&authentication(0, b"")).await.map_err(lost("tunnel"))?;
        return Ok(policy.identify_in_tunnel(&tunnel.identity));
    }
    let named = wanted.as_ref().and_then(|wanted| wanted.target.as_deref()).unwrap_or_default();
    let target = policy.named(TargetKind::Pg, named).map_or(named, |target| target.name.as_str());
    let (redeemed, last) = match prove(front, door, person, target, source, tls).await {
        Ok(proven) => proven,
        Err(None) => return Err(("token", "no such person with that token".to_owned(), wrong().into())),
        Err(Some((why, refusal))) => return Err(("token", why, refusal)),
    };
    let identity = policy.identify_by_token(&redeemed, source);
    let identity = identity.ok_or_else(|| ("token", "no such person".to_owned(), Refusal::Told(wrong())))?;
    // In one write: each one wakes the client.
    front.stream.write_all(&[last, authentication(0, b"")].concat()).await.map_err(lost("token"))?;
    Ok(match &approach.tunnel {
        // Whose connection it is was proved outside; the token says that it is they who use it.
        Some(tunnel) => policy.identify_in_tunnel(&tunnel.identity),
        None => identity,
    })
}

/// Has the client prove a token by SCRAM, and returns what proves to the client in turn that the token is known here. The error
/// is nothing where the proof is wrong.
async fn prove(
    front: &mut Front,
    door: &Door,
    person: &str,
    target: &str,
    source: SocketAddr,
    tls: Option<&ServerTls>,
) -> Result<(Redeemed, Bytes), Option<(String, Refusal)>> {
    let left = |error: io::Error| Some((format!("left without logging in: {error}"), Refusal::from(error)));
    let mut nonce = [0; 18];
    getrandom::fill(&mut nonce).map_err(|error| {
        Some((error.to_string(), Complaint::new(SYSTEM_ERROR, "the bastion has no randomness").into()))
    })?;
    let binding = tls.filter(|_| front.tls.is_some()).map(ServerTls::end_point);
    let exchange = Exchange::new(door.tokens().salt(person, target), binding, nonce);
    let mut mechanisms = BytesMut::new();
    exchange.mechanisms().iter().for_each(|name| put_text(&mut mechanisms, name.as_bytes()));
    mechanisms.put_u8(0);
    front.stream.write_all(&authentication(10, &mechanisms)).await.map_err(left)?;
    let refused =
        |refused: Refused| Some((refused.to_string(), Complaint::new(refused.sqlstate(), refused.to_string()).into()));
    let silent = |refusal: Refusal| {
        let why = match &refusal {
            Refusal::Told(complaint) => complaint.message.clone(),
            Refusal::Silent(why) => why.clone(),
        };
        Some((why, refusal))
    };
    let first = front.answer().await.map_err(silent)?;
    let mut fields = Fields(&first);
    let parts = (|| {
        let mechanism = fields.text()?;
        let len = usize::try_from(fields.u32()?).ok()?;
        let message = fields.bytes(len)?;
        fields.is_empty().then_some((mechanism, message))
    })();
    let Some((mechanism, message)) = parts else {
        let complaint = Complaint::new(PROTOCOL_VIOLATION, "malformed SASLInitialResponse");
        return Err(Some((complaint.message.clone(), complaint.into())));
    };
    let (server_first, expected) = exchange.first(mechanism, message).map_err(refused)?;
    front.stream.write_all(&authentication(11, &server_first)).await.map_err(left)?;
    let last = front.answer().await.map_err(silent)?;
    let proof = expected.last(&last).map_err(refused)?;
    let found = door
        .tokens()
        .redeem(person, target, source.ip(), Instant::now(), |verifier| proof.fits(verifier))
        .ok_or(None)?;
    let (redeemed, proven) = found;
    Ok((redeemed, authentication(12, proven.server_final())))
}
