//! Vectors of names: what lies where no evidence does, and what poses as some.

use anyhow::Result;
use casemate_certs::trust::Authority;

use crate::Sounds;
use crate::desk::{Case, Desk};
use crate::plain::edit_trust;
use crate::record::{Shelf, sign};

/// All of them.
pub(crate) fn names(shelf: &Shelf, sounds: &Sounds) -> Result<()> {
    let three = &sounds.three;
    let case = |name, what: &str| Case::new(shelf, three, name, what);
    case("segment-below-a-stray-directory", "a segment lies below a directory that no vault has").altered().make(
        |desk| {
            let (home, id) = (desk.segment(0, 0)?, desk.id(0)?.to_owned());
            desk.write(&format!("vault/v1/t/kept/2026/{id}/000000.seg"), &desk.read(&home)?)
        },
    )?;
    case("segment-beside-the-days", "a segment lies in its session's directory, and that on no day").altered().make(
        |desk| {
            let (home, id) = (desk.segment(0, 0)?, desk.id(0)?.to_owned());
            desk.write(&format!("vault/v1/t/{id}/000000.seg"), &desk.read(&home)?)
        },
    )?;
    case("names-that-no-segment-has", "files are called almost like segments, and mean nothing").make(|desk| {
        let (home, id) = (desk.segment(0, 0)?, desk.id(0)?.to_owned());
        let beside = |name: &str| desk.write(&home.replace("000000.seg", name), b"x");
        for name in
            ["1.seg", "0000001.seg", "4294967296.seg", "00001a.seg", "\u{664}\u{664}\u{664}\u{664}\u{664}\u{664}.seg"]
        {
            beside(name)?;
        }
        desk.write(&format!("vault/v1/t/2001/01/01/{id}/1.seg"), b"x")?;
        desk.write(&format!("vault/v1/t/2001/01/01/{id}/notes.txt"), b"x")?;
        desk.write(&format!("vault/v1/t/2001/01/01/{id}/old/000000.seg"), b"x")?;
        desk.write(&format!("vault/v1/t/2001/01/01/{}/000000.seg", id.replace('-', "")), b"x")
    })?;
    case("names-that-no-session-has", "directories are called almost like sessions, and mean nothing").make(
        |desk| {
            desk.write(&format!("vault/v1/t/2026/11/02/{}/000000.seg", "-".repeat(36)), b"x")?;
            desk.write(&format!("vault/v1/t/2026/11/02/{}/000000.seg", "g".repeat(36)), b"x")
        },
    )?;
    case("session-of-no-day", "a session whose id begins after the last day there is").altered().make(|desk| {
        let id = "ffffffff-ffff-7fff-8fff-ffffffffffff";
        desk.write(&format!("vault/v1/t/2026/11/02/{id}/000000.seg"), b"x")
    })?;
    case("names-that-no-tile-has", "files are called almost like tiles and bundles, and mean nothing").make(
        |desk| {
            for name in
                ["0/x000/000", "0/000.p/256", "0/000.p/300", "0/000.p/0", "00/000", "64/000", "entries/x000/000.p/18"]
            {
                desk.write(&format!("vault/v1/log/node-1/tile/{name}"), b"x")?;
            }
            let far = "x999/".repeat(7);
            desk.write(&format!("vault/v1/log/node-1/tile/entries/{far}000"), b"x")
        },
    )?;
    case("trust-signed-with-other-line-ends", "the signature of the trust file went through a mail").make(|desk| {
        desk.edit("trust.toml.sig", |bytes| {
            *bytes = String::from_utf8_lossy(bytes).replace('\n', "\r\n").into_bytes();
        })
    })?;
    let quorum = |desk: &Desk, quorum: &str| {
        desk.edit("trust.toml", |bytes| {
            *bytes = String::from_utf8_lossy(bytes).replace("quorum = 1", &format!("quorum = {quorum}")).into_bytes();
        })?;
        sign(&desk.path("trust.toml"), desk.officer())
    };
    case("trust-quorum-of-nobody", "no officer must sign the trust file").usage().make(|desk| quorum(desk, "0"))?;
    case("trust-quorum-beyond-the-officers", "two officers must sign, and there is one").usage().make(|desk| {
        edit_trust(desk, |trust| {
            if let Authority::Officers(board) = &mut trust.authority {
                board.quorum = 2;
            }
        })
    })
}
