//! Trust files signed by `ssh-keygen`, as officers do it: what counts, what does not, and how one follows another.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic in a test is a failing test")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use casemate_certs::trust::{NAMESPACE, Tally, TrustDoubt, TrustFile, departures, succeed};
use casemate_certs::vkey::NodeKey;
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest, Sha256};
use ssh_key::public::{EcdsaPublicKey, Ed25519PublicKey, KeyData, SkEcdsaSha2NistP256, SkEd25519};
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, PublicKey, Signature, SshSig};
use tempfile::TempDir;

const NODE_FROM: &str = "2026-01-01T00:00:00Z";

/// 2026-12-01T00:00:00Z.
const NOW_US: u64 = 1_796_083_200_000_000;

/// Keys of officers, made by `ssh-keygen`, and files to sign.
struct Desk {
    dir: TempDir,
}

/// An officer's entry: name, key line, end of the key.
type Entry<'a> = (&'a str, &'a str, Option<&'a str>);

impl Desk {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn key(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a key and returns its public line.
    fn make(&self, name: &str, kind: &[&str]) -> String {
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-N", "", "-C", name, "-f"]).arg(self.key(name)).arg("-t").args(kind);
        assert!(command.status().unwrap().success());
        fs::read_to_string(self.key(name).with_extension("pub")).unwrap().trim_end().to_owned()
    }

    /// Signs as the README says: from standard input to standard output.
    fn sign_in(&self, namespace: &str, name: &str, text: &str) -> String {
        self.sign_by(&["-n", namespace], name, text)
    }

    fn sign_by(&self, options: &[&str], name: &str, text: &str) -> String {
        let file = self.dir.path().join("to-sign");
        fs::write(&file, text).unwrap();
        let mut command = Command::new("ssh-keygen");
        command.args(["-Y", "sign"]).args(options).arg("-f").arg(self.key(name)).stdin(fs::File::open(&file).unwrap());
        let output = command.stderr(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn sign(&self, name: &str, text: &str) -> String {
        self.sign_in(NAMESPACE, name, text)
    }
}

/// A trust file issued at that time, with these officers and these `[[node]]` tables.
fn trust(issued: &str, quorum: usize, officers: &[Entry<'_>], nodes: &str) -> String {
    let mut text = format!(
        "version = 1\nself_asserted = false\norganisation = \"Example Bank\"\nissued = {issued}\nquorum = {quorum}\n"
    );
    for (name, key, until) in officers {
        text += &format!("\n[[officer]]\nname = \"{name}\"\nkey = \"{key}\"\nfrom = 2026-01-01T00:00:00Z\n");
        text += &until.map(|until| format!("until = {until}\n")).unwrap_or_default();
    }
    text + nodes
}

fn node(key: &NodeKey, from: &str, until: Option<&str>) -> String {
    let until = until.map(|until| format!("until = {until}\n")).unwrap_or_default();
    format!("\n[[node]]\nkey = \"{}\"\nfrom = {from}\n{until}", key.public())
}

fn a_node() -> String {
    node(&NodeKey::generate("node-1").unwrap(), NODE_FROM, None)
}

fn read(text: &str, signatures: &str) -> TrustFile {
    TrustFile::read(text, Some(signatures)).unwrap()
}

fn names(tally: &Tally) -> Vec<&str> {
    tally.signers.iter().map(|signer| signer.name.as_str()).collect()
}

/// The reasons why signatures do not count, each with its line.
fn refusals(file: &TrustFile) -> Vec<String> {
    file.tally().refused.iter().map(|refused| format!("{}: {}", refused.line, refused.why)).collect()
}

#[test]
fn every_kind_of_key_that_is_taken_signs_and_each_bit_counts() {
    let desk = Desk::new();
    let kinds = [
        ("ed25519", &["ed25519"][..]),
        ("ecdsa256", &["ecdsa", "-b", "256"]),
        ("ecdsa384", &["ecdsa", "-b", "384"]),
        ("rsa", &["rsa", "-b", "3072"]),
    ];
    for (name, kind) in kinds {
        let line = desk.make(name, kind);
        let text = trust("2026-11-22T20:00:00Z", 1, &[("Ada", &line, None)], &a_node());
        let signature = desk.sign(name, &text);
        let file = read(&text, &signature);
        assert!(file.believe(NOW_US).is_ok(), "{name}: {:?}", refusals(&file));
        let shorter = desk.sign_by(&["-n", NAMESPACE, "-O", "hashalg=sha256"], name, &text);
        assert!(shorter != signature && read(&text, &shorter).believe(NOW_US).is_ok(), "{name}: SHA-256");
        // Nothing of the file may change: not even white space, which says the same.
        let other = read(&format!("{text}\n"), &signature);
        assert!(other.believe(NOW_US).is_err());
        assert!(refusals(&other)[0].starts_with("1: is by Ada, over another file"), "{:?}", refusals(&other));
        // A signature with another character in it counts nowhere. The last characters of a line of base64 may mean nothing.
        let body = signature.find('\n').unwrap() + 1;
        for at in (body..signature.len() - 30).step_by(7) {
            let mut wrong = signature.clone().into_bytes();
            if wrong[at].is_ascii_alphanumeric() {
                wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
                let wrong = read(&text, std::str::from_utf8(&wrong).unwrap());
                assert!(wrong.believe(NOW_US).is_err() && refusals(&wrong).len() == 1, "{name} at {at}");
            }
        }
    }
    for (name, kind, what) in [
        ("p521", &["ecdsa", "-b", "521"][..], "key type ecdsa-sha2-nistp521 is not taken"),
        ("rsa2048", &["rsa", "-b", "2048"], "RSA key of 2048 bits is outside 3072 to 8192"),
    ] {
        let line = desk.make(name, kind);
        let text = trust("2026-11-22T20:00:00Z", 1, &[("Ada", &line, None)], &a_node());
        let error = TrustFile::read(&text, None).unwrap_err().to_string();
        assert!(error.contains(&format!("line 9: officer.key: {what}")), "{error}");
    }
}

#[test]
fn officers_are_counted_by_person_and_what_does_not_count_is_named() {
    let desk = Desk::new();
    let [ada, ada2, bob, eve] = ["ada", "ada2", "bob", "eve"].map(|name| desk.make(name, &["ed25519"]));
    assert!(eve.starts_with("ssh-ed25519 "));
    let officers = [("Ada", ada.as_str(), None), ("Ada", ada2.as_str(), None), ("Bob", bob.as_str(), None)];
    let text = trust("2026-11-22T20:00:00Z", 2, &officers, &a_node());
    let sign = |name: &str| desk.sign(name, &text);

    let unsigned = TrustFile::read(&text, None).unwrap();
    assert_eq!(unsigned.believe(NOW_US), Err(TrustDoubt::Unsigned { quorum: 2 }));
    let one = read(&text, &sign("ada"));
    let short = TrustDoubt::ShortOfQuorum { signers: vec!["Ada".to_owned()], quorum: 2 };
    assert_eq!(one.believe(NOW_US), Err(short.clone()));
    let both = read(&text, &(sign("ada") + &sign("bob")));
    assert!(both.believe(NOW_US).is_ok());
    assert_eq!((names(both.tally()), refusals(&both).len()), (vec!["Ada", "Bob"], 0));

    // Two keys of one person are one officer.
    let twice = read(&text, &(sign("ada") + &sign("ada2")));
    assert_eq!(twice.believe(NOW_US), Err(short.clone()));
    assert!(refusals(&twice)[0].contains("second one by Ada"), "{:?}", refusals(&twice));

    let stranger = read(&text, &(sign("ada") + &sign("eve")));
    assert_eq!(stranger.believe(NOW_US), Err(short.clone()));
    assert!(refusals(&stranger)[0].contains("a key of no officer"), "{:?}", refusals(&stranger));

    // A signature made for something else, even over the same bytes, vouches for nothing here.
    let mail = read(&text, &(desk.sign_in("file", "bob", &text) + &sign("ada")));
    assert_eq!(mail.believe(NOW_US), Err(short.clone()));
    assert!(refusals(&mail)[0].starts_with("1: was made for \"file\""), "{:?}", refusals(&mail));

    // Rubbish hides no good signature.
    let noisy = read(&text, &format!("from Ada:\n{}\n-----BEGIN SSH SIGNATURE-----\n{}", sign("ada"), sign("bob")));
    assert!(noisy.believe(NOW_US).is_ok());
    assert_eq!(refusals(&noisy).len(), 2, "{:?}", refusals(&noisy));

    // Nor does a signature by the right person over another file.
    let old = trust("2026-11-22T20:00:00Z", 1, &officers, &a_node());
    assert_eq!(read(&text, &(sign("ada") + &desk.sign("bob", &old))).believe(NOW_US), Err(short));
    let early = both.believe(NOW_US - 40 * 24 * 3600 * 1_000_000).unwrap_err();
    assert!(matches!(early, TrustDoubt::NotYetIssued { .. }), "{early}");
}

#[test]
fn a_signature_counts_whole_or_not_at_all() {
    let desk = Desk::new();
    let ada = desk.make("ada", &["ed25519"]);
    let text = trust("2026-11-22T20:00:00Z", 1, &[("Ada", &ada, None)], &a_node());
    let signature = desk.sign("ada", &text);
    let whole = signature.trim_end().len();
    for cut in 0..signature.len() {
        let file = read(&text, &signature[..cut]);
        assert_eq!(file.believe(NOW_US).is_ok(), cut >= whole, "{cut} of {whole}");
    }
}

#[test]
fn a_key_that_has_expired_by_the_issue_does_not_count() {
    let desk = Desk::new();
    let [ada, bob] = ["ada", "bob"].map(|name| desk.make(name, &["ed25519"]));
    let signed = |issued: &str| {
        let officers = [("Ada", ada.as_str(), None), ("Bob", bob.as_str(), Some("2026-10-01T00:00:00Z"))];
        let text = trust(issued, 1, &officers, &a_node());
        read(&text, &desk.sign("bob", &text))
    };
    assert!(signed("2026-09-30T23:59:59Z").believe(NOW_US).is_ok());
    let late = signed("2026-10-01T00:00:00Z");
    assert!(matches!(late.believe(NOW_US), Err(TrustDoubt::ShortOfQuorum { .. })));
    assert!(refusals(&late)[0].contains("a key of Bob that does not count at 2026-10-01T00:00:00Z"), "{late:?}");
}

/// Signs as a security key does (PROTOCOL.u2f): over the application, flags and a counter as well.
fn touch_p256(desk: &Desk, text: &str, flags: u8) -> (String, String) {
    let key = PrivateKey::from_openssh(fs::read_to_string(desk.key("p256")).unwrap()).unwrap();
    let KeyData::Ecdsa(EcdsaPublicKey::NistP256(point)) = key.public_key().key_data() else { unreachable!() };
    let public = KeyData::SkEcdsaSha2NistP256(SkEcdsaSha2NistP256::new(*point, "ssh:"));
    let (signed, trailer) = to_touch(text, flags);
    let mut bytes = key.try_sign(&signed).unwrap().as_bytes().to_vec();
    bytes.extend(trailer);
    sealed(public, Algorithm::SkEcdsaSha2NistP256, bytes)
}

/// As [`touch_p256`], with Ed25519.
fn touch(text: &str, flags: u8, algorithm: Algorithm) -> (String, String) {
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = KeyData::SkEd25519(SkEd25519::new(Ed25519PublicKey(key.verifying_key().to_bytes()), "ssh:"));
    let (signed, trailer) = to_touch(text, flags);
    let mut bytes = key.sign(&signed).to_bytes().to_vec();
    bytes.extend(trailer);
    sealed(public, algorithm, bytes)
}

/// What a security key signs, and what it appends.
fn to_touch(text: &str, flags: u8) -> (Vec<u8>, [u8; 5]) {
    let message = SshSig::signed_data(NAMESPACE, HashAlg::Sha512, text.as_bytes()).unwrap();
    let trailer = [flags, 0, 0, 0, 9];
    let mut signed = Sha256::digest("ssh:").to_vec();
    signed.extend(trailer);
    signed.extend(Sha256::digest(message));
    (signed, trailer)
}

/// Returns the public line and the armoured signature.
fn sealed(public: KeyData, algorithm: Algorithm, bytes: Vec<u8>) -> (String, String) {
    let line = PublicKey::from(public.clone()).to_openssh().unwrap();
    let signature = Signature::new(algorithm, bytes).unwrap();
    (line, SshSig::new(public, NAMESPACE, HashAlg::Sha512, signature).unwrap().to_pem(LineEnding::LF).unwrap())
}

/// Signs a text with these flags.
type Touch<'a> = &'a dyn Fn(&str, u8) -> (String, String);

#[test]
fn a_security_key_must_have_been_touched() {
    let desk = Desk::new();
    desk.make("p256", &["ecdsa", "-b", "256"]);
    let ed25519 = |text: &str, flags| touch(text, flags, Algorithm::SkEd25519);
    let p256 = |text: &str, flags| touch_p256(&desk, text, flags);
    let kinds: [Touch<'_>; 2] = [&ed25519, &p256];
    for touch in kinds {
        let (line, _) = touch("", 1);
        let text = trust("2026-11-22T20:00:00Z", 1, &[("Ada", &line, None)], &a_node());
        for (flags, counts) in [(0x01, true), (0x05, true), (0x00, false), (0x04, false)] {
            let file = read(&text, &touch(&text, flags).1);
            assert_eq!(file.believe(NOW_US).is_ok(), counts, "{line} {flags}: {:?}", refusals(&file));
            assert_eq!(refusals(&file).iter().any(|why| why.contains("nobody touched")), !counts);
        }
    }
    // The label of a signature is held against the key too: the library looks at the numbers only.
    let (line, _) = touch("", 1, Algorithm::SkEd25519);
    let text = trust("2026-11-22T20:00:00Z", 1, &[("Ada", &line, None)], &a_node());
    let file = read(&text, &touch(&text, 1, Algorithm::Rsa { hash: Some(HashAlg::Sha512) }).1);
    assert!(refusals(&file)[0].contains("where its key asks for another algorithm"), "{:?}", refusals(&file));
}

#[test]
fn an_rsa_signature_with_sha_1_does_not_count() {
    let desk = Desk::new();
    let line = desk.make("rsa", &["rsa", "-b", "3072"]);
    let text = trust("2026-11-22T20:00:00Z", 1, &[("Ada", &line, None)], &a_node());
    let good = SshSig::from_pem(desk.sign("rsa", &text)).unwrap();
    let label = |hash| {
        let signature = Signature::new(Algorithm::Rsa { hash }, good.signature_bytes().to_vec()).unwrap();
        let sig = SshSig::new(good.public_key().clone(), NAMESPACE, good.hash_alg(), signature).unwrap();
        read(&text, &sig.to_pem(LineEnding::LF).unwrap())
    };
    assert!(label(Some(HashAlg::Sha512)).believe(NOW_US).is_ok());
    assert!(label(Some(HashAlg::Sha256)).believe(NOW_US).is_err(), "the label is part of what is checked");
    let weak = label(None);
    assert!(weak.believe(NOW_US).is_err());
    assert!(refusals(&weak)[0].contains("uses ssh-rsa where"), "{:?}", refusals(&weak));
}

#[test]
fn the_old_officers_hand_over_and_the_past_stays() {
    let desk = Desk::new();
    let [ada, bob, carol] = ["ada", "bob", "carol"].map(|name| desk.make(name, &["ed25519"]));
    let [first, second, other] = ["node-1", "node-1", "node-2"].map(|name| NodeKey::generate(name).unwrap());
    let old_officers = [("Ada", ada.as_str(), None), ("Bob", bob.as_str(), None)];
    let new_officers = [("Bob", bob.as_str(), None), ("Carol", carol.as_str(), None)];
    let signed = |text: &str, by: &[&str]| {
        let signatures: String = by.iter().map(|name| desk.sign(name, text)).collect();
        read(text, &signatures)
    };
    let (issued, later) = ("2026-06-01T00:00:00Z", "2026-11-22T20:00:00Z");
    let old_text = trust(issued, 2, &old_officers, &node(&first, NODE_FROM, None));
    let old = signed(&old_text, &["ada", "bob"]);
    let next = |nodes: &str| trust(later, 2, &new_officers, nodes);
    let all = ["ada", "bob", "carol"];

    // Ada leaves, Carol comes, the node changes its key, another node is there.
    let nodes = node(&first, NODE_FROM, Some("2026-09-01T00:00:00Z"))
        + &node(&second, "2026-09-01T00:00:00Z", None)
        + &node(&other, NODE_FROM, None);
    let new = signed(&next(&nodes), &all);
    assert!(new.believe(NOW_US).is_ok());
    assert_eq!(succeed(&new, &old), Vec::<String>::new());
    assert_eq!(departures(&new, &old), ["Ada is no officer any more", "Carol is an officer now"]);

    let fault = |new: &TrustFile, old: &TrustFile, wanted: &str| {
        let problems = succeed(new, old);
        assert!(problems.len() == 1 && problems[0].contains(wanted), "{wanted}: {problems:?}");
    };
    // The new officers alone cannot take over.
    let taken = signed(&next(&nodes), &["bob", "carol"]);
    assert!(taken.believe(NOW_US).is_ok());
    fault(&taken, &old, "signed by 1 of the 2 officers that the previous file asks for");
    fault(&signed(&next(&node(&other, NODE_FROM, None)), &all), &old, "node node-1: drops the key");
    let moved = node(&first, "2026-01-02T00:00:00Z", None);
    fault(&signed(&next(&moved), &all), &old, "node node-1: rewrites when the key");
    let cut = node(&first, NODE_FROM, Some("2026-05-31T00:00:00Z"));
    fault(&signed(&next(&cut), &all), &old, "node node-1: rewrites when the key");
    let planted = node(&first, NODE_FROM, None) + &node(&second, "2026-03-01T00:00:00Z", None);
    fault(&signed(&next(&planted), &all), &old, "node node-1: gives it another key");
    let same_day = trust(issued, 1, &old_officers, &node(&first, NODE_FROM, None));
    fault(&signed(&same_day, &["ada", "bob"]), &old, "is not after the previous");
    fault(&new, &signed(&old_text, &["ada"]), "the previous file never counted");

    // A period that was closed stays closed.
    let closed = node(&first, NODE_FROM, Some("2026-03-01T00:00:00Z"));
    let closed_old = signed(&trust(issued, 2, &old_officers, &closed), &["ada", "bob"]);
    assert_eq!(succeed(&signed(&next(&closed), &all), &closed_old), Vec::<String>::new());
    let opened = node(&first, NODE_FROM, None);
    fault(&signed(&next(&opened), &all), &closed_old, "node node-1: rewrites when the key");

    let self_asserted = format!("version = 1\nself_asserted = true\n{}", node(&first, NODE_FROM, None));
    let self_asserted = TrustFile::read(&self_asserted, None).unwrap();
    assert_eq!(self_asserted.believe(NOW_US), Err(TrustDoubt::SelfAsserted));
    assert!(succeed(&new, &self_asserted).iter().any(|problem| problem.contains("self-asserted")));
}
