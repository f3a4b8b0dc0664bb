//! The bar that a person watches while wallets are read.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::tally::Progress;

/// Wallets done, a second, failed, and the time left.
pub struct Bar {
    bar: ProgressBar,
    failed: AtomicU64,
}

impl Bar {
    pub(super) fn new(bars: Option<MultiProgress>, what: &'static str, wallets: u64) -> Self {
        let bar = match bars {
            None => ProgressBar::hidden(),
            Some(bars) => {
                let style = ProgressStyle::with_template(
                    "{prefix} {wide_bar} {human_pos}/{human_len} wallets, \
                     {per_sec}, {msg} failed, {eta} left",
                )
                .expect("the template is well formed");
                let bar = bars.add(ProgressBar::new(wallets).with_style(style).with_prefix(what));
                bar.set_message("0");
                bar.enable_steady_tick(Duration::from_millis(200));
                bar
            }
        };
        Self { bar, failed: AtomicU64::new(0) }
    }
}

impl Progress for Bar {
    fn wallets(&self, read: u64, failed: u64) {
        if failed > 0 {
            let failed = self.failed.fetch_add(failed, Relaxed) + failed;
            self.bar.set_message(failed.to_string());
        }
        self.bar.inc(read);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
