//! Standbys and frozen servers.

use std::{
    fs,
    process::Command,
    sync::{Mutex, atomic::AtomicUsize},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{Cluster, Supervisor, log_from};

impl Cluster {
    /// Starts a hot standby that follows this cluster.
    ///
    /// # Errors
    /// If the cluster cannot be copied, or the copy does not start; the error ends with the log.
    pub fn standby(&self) -> Result<Self> {
        let (mut supervisor, folder) = Supervisor::spawn()?;
        if !supervisor.command(&format!("copy {}", self.port))? {
            bail!("pg_basebackup failed:\n{}", log_from(&folder, 0));
        }
        let port = supervisor.start_on_some_port(&folder)?;
        let databases = AtomicUsize::new(1_000);
        Ok(Self { supervisor: Mutex::new(supervisor), folder, port, databases })
    }

    /// Makes a standby the primary, once it has all that the old one wrote until now.
    ///
    /// # Errors
    /// If it is not a standby, or does not answer.
    pub fn promote(&self) -> Result<()> {
        self.administer("select pg_promote()")
    }

    /// Stops all processes of the server without ending them: it accepts connections and never answers.
    ///
    /// # Errors
    /// If it is down.
    pub fn freeze(&self) -> Result<Frozen> {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid"))?;
        let postmaster = file.lines().next().context("postmaster.pid is empty")?.to_owned();
        let frozen = Frozen { postmaster };
        frozen.signal("STOP")?;
        // One that was started meanwhile.
        thread::sleep(Duration::from_millis(50));
        frozen.signal("STOP")?;
        Ok(frozen)
    }
}

/// A frozen server. It goes on when this is dropped.
#[derive(Debug)]
pub struct Frozen {
    postmaster: String,
}

impl Frozen {
    fn signal(&self, name: &str) -> Result<()> {
        let kill = Command::new("kill").args([&format!("-{name}"), &self.postmaster]).status()?;
        ensure!(kill.success(), "kill -{name} {}", self.postmaster);
        // It may have no child.
        Command::new("pkill").args([&format!("-{name}"), "-P", &self.postmaster]).status()?;
        Ok(())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.signal("CONT");
    }
}
