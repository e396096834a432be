//! A small disk for one test: a tmpfs of its own, gone when the value is dropped.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::process::{nothing, run};
use crate::scale::MIB;

/// A mounted tmpfs.
#[derive(Debug)]
pub struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// Mounts a disk of that many MiB.
    ///
    /// # Errors
    /// Where nothing can be mounted; the text says what it takes.
    pub fn mount(mib: u64) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("casemate-disk-").tempdir()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=755"), "casemate-test"]).arg(dir.path());
        run(&mut mount, nothing(), Duration::from_secs(10)).and_then(|done| done.ok()).with_context(|| {
            format!(
                "a tmpfs of {mib} MiB cannot be mounted; run the tests as root, or in namespaces of their own: \
                 unshare --map-root-user --mount make test"
            )
        })?;
        Ok(Self { dir })
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes up space with a file: that many MiB, or all there is.
    ///
    /// # Errors
    /// When less than that is there.
    pub fn take_up(&self, mib: Option<u64>) -> Result<PathBuf> {
        let path = self.path().join("ballast");
        let mut file = File::create(&path)?;
        let bytes = mib.map_or(u64::MAX, |mib| mib * MIB);
        match std::io::copy(&mut std::io::repeat(0xaa).take(bytes), &mut file) {
            Err(error) if mib.is_none() && error.kind() == std::io::ErrorKind::StorageFull => {}
            written => drop(written.context("ballast")?),
        }
        Ok(path)
    }

    /// Gives back what [`SmallDisk::take_up`] took.
    ///
    /// # Errors
    /// When it took nothing.
    pub fn give_back(&self) -> Result<()> {
        Ok(fs::remove_file(self.path().join("ballast"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still holds a file there must not keep the mount on the machine.
        let umount = Command::new("umount").arg("--lazy").arg(self.path()).status();
        if !umount.is_ok_and(|status| status.success()) {
            let _ = writeln!(std::io::stderr(), "{} stays mounted; umount it", self.path().display());
        }
    }
}
