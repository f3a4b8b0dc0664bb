//! A headless Chromium; tests/testbed/install-chromium installs it.

use std::process::Command;

/// The DOM of a page after its script has run for this many milliseconds of virtual time.
#[track_caller]
pub(crate) fn dom_of(url: &str, milliseconds: u32) -> String {
    let profile = tempfile::tempdir().expect("a folder");
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--virtual-time-budget={milliseconds}"))
        .args(["--dump-dom", url])
        .env("HOME", profile.path())
        .output()
        .expect("Chromium is installed: see tests/testbed/install-chromium");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.is_empty(), "{said}");
    text
}
