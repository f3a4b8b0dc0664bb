//! URLs from files, as mounted secrets come: `--rpc-url-file` and the like.
//!
//! What a file holds never reaches an error: only its name does.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    cli::{Settings, uses_flag},
    redact,
    tally::{RunError, Shutdown},
};

/// Bytes of such a file, at most.
const LONGEST: u64 = 64 << 10;
/// How long a file may take, which may be a pipe.
const PATIENCE: Duration = Duration::from_secs(10);

/// Puts the URLs from the files that this command uses into the settings.
///
/// # Errors
/// When a file cannot be read, or does not hold what it should.
pub async fn read_url_files(
    settings: &mut Settings,
    command: &str,
    shutdown: &Shutdown,
) -> Result<(), RunError> {
    let is_used = |flag| uses_flag(command, flag);
    let (node, database) = (&mut settings.node, &mut settings.database);
    if let Some(path) = node.rpc_url_file.as_ref().filter(|_| is_used("rpc-url-file")) {
        node.rpc_url = read("--rpc-url-file", path, shutdown).await?;
    }
    if let Some(path) = node.ws_url_file.as_ref().filter(|_| is_used("ws-url-file")) {
        node.ws_url = Some(read_one("--ws-url-file", path, shutdown).await?);
    }
    if let Some(path) = database.database_url_file.as_ref().filter(|_| is_used("database-url-file"))
    {
        database.database_url = match node.profile.len() {
            0 | 1 => vec![read_one("--database-url-file", path, shutdown).await?],
            _ => read_lines("--database-url-file", path, shutdown).await?,
        };
        database.is_default = false;
    }
    Ok(())
}

/// The only line of a file. A comma may stand in a password.
async fn read_one(flag: &str, path: &Path, shutdown: &Shutdown) -> Result<String, RunError> {
    let text = contents(flag, path, shutdown).await?;
    if text.lines().filter(|line| !line.trim().is_empty()).count() > 1 {
        return Err(refused(flag, path, "it has more than one line; write one URL into it"));
    }
    Ok(text)
}

/// The lines of a file: one for each profile.
async fn read_lines(flag: &str, path: &Path, shutdown: &Shutdown) -> Result<Vec<String>, RunError> {
    let text = contents(flag, path, shutdown).await?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

/// The URLs of a file, on lines or between commas.
async fn read(flag: &str, path: &Path, shutdown: &Shutdown) -> Result<Vec<String>, RunError> {
    let text = contents(flag, path, shutdown).await?;
    let urls = text.split([',', '\n', '\r']).map(str::trim).filter(|url| !url.is_empty());
    let urls: Vec<_> = urls.map(str::to_owned).collect();
    if urls.is_empty() {
        return Err(refused(flag, path, "it has no URL; write one into it"));
    }
    Ok(urls)
}

/// The text of a file without white space around it, remembered as a secret.
async fn contents(flag: &str, path: &Path, shutdown: &Shutdown) -> Result<String, RunError> {
    if path.to_string_lossy().contains("://") {
        let url_flag = flag.trim_end_matches("-file");
        return Err(RunError::settings(format!(
            "{flag} takes the path of a file, not a URL; write the URL into a file, or give it as \
             {url_flag}"
        )));
    }
    let opened = PathBuf::from(path);
    let reading = timeout(PATIENCE, spawn_blocking(move || bytes_of(&opened)));
    let bytes = tokio::select! {
        // A file that is ready is read even if a signal has come.
        biased;
        read = reading => match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => Err(std::io::Error::other(error)),
            Err(_) => return Err(refused(flag, path, "nothing came from it for 10 s; is it a pipe?")),
        },
        () = shutdown.requested() => {
            return Err(RunError::Stopped(format!("waiting for {}", path.display())));
        }
    };
    let bytes = bytes.map_err(|error| refused(flag, path, &format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > LONGEST {
        return Err(refused(flag, path, "it is larger than 64 KiB; it must hold URLs only"));
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return Err(refused(flag, path, "it is not text in UTF-8"));
    };
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Err(refused(flag, path, "it is empty; write a URL into it"));
    }
    redact::remember_contents(text);
    Ok(text.to_owned())
}

/// What a file holds, but not much more than it may.
fn bytes_of(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn refused(flag: &str, path: &Path, why: &str) -> RunError {
    RunError::settings(format!("{flag} {}: {why}", path.display()))
}
