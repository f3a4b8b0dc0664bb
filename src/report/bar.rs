//! The bar that a person watches while wallets are read.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use indicatif::{
    HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState,
    ProgressStyle,
};

use super::writer::Writer;
use crate::tally::Progress;

/// How often it is drawn.
const EVERY: Duration = Duration::from_millis(200);

/// Wallets done, a second, failed, and the time left.
///
/// Drawn by threads of its own and of stderr's writer: a terminal that is stopped (Ctrl-S) stops only them.
pub struct Bar {
    bar: ProgressBar,
    failed: Arc<AtomicU64>,
    /// `None` if nobody watches.
    stderr: Option<Writer>,
}

impl Bar {
    pub(super) fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), failed: Arc::default(), stderr: None }
    }

    pub(super) fn shown(
        bars: MultiProgress,
        stderr: Writer,
        what: &'static str,
        wallets: u64,
    ) -> Self {
        let failed = Arc::<AtomicU64>::default();
        let bar = ProgressBar::with_draw_target(Some(wallets), ProgressDrawTarget::hidden())
            .with_style(style(wallets, Arc::clone(&failed)))
            .with_prefix(what);
        let added = bar.clone();
        stderr.draw(move || {
            bars.add(added).enable_steady_tick(EVERY);
        });
        Self { bar, failed, stderr: Some(stderr) }
    }
}

/// Every part but the bar itself has a fixed width, so that nothing jumps while numbers grow.
fn style(wallets: u64, failed: Arc<AtomicU64>) -> ProgressStyle {
    let width = HumanCount(wallets).to_string().len();
    let template = format!(
        "{{prefix}} {{wide_bar}} {{human_pos:>{width}}}/{{human_len}} wallets, {{speed:>9}}/s, \
         {{failed:>{width}}} failed, {{time_left:>4}} left"
    );
    ProgressStyle::with_template(&template)
        .expect("the template is well formed")
        .with_key("speed", |state: &ProgressState, text: &mut dyn fmt::Write| {
            let _ = write!(text, "{}", HumanCount(state.per_sec().round() as u64));
        })
        .with_key("failed", move |_: &ProgressState, text: &mut dyn fmt::Write| {
            let _ = write!(text, "{}", HumanCount(failed.load(Relaxed)));
        })
        .with_key("time_left", |state: &ProgressState, text: &mut dyn fmt::Write| {
            let _ = match state.pos() {
                0 => write!(text, "?"),
                _ => write!(text, "{:#}", HumanDuration(state.eta())),
            };
        })
}

impl Progress for Bar {
    fn wallets(&self, read: u64, failed: u64) {
        self.failed.fetch_add(failed, Relaxed);
        // Does not draw: the bar has a thread for that.
        self.bar.inc(read);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(stderr) = &self.stderr {
            let bar = self.bar.clone();
            stderr.draw(move || bar.finish_and_clear());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Mutex, PoisonError},
        thread,
    };

    use indicatif::TermLike;

    use super::*;

    /// A terminal of 100 columns that keeps what is drawn.
    #[derive(Clone, Debug, Default)]
    struct Drawn(Arc<Mutex<String>>);

    impl Drawn {
        fn take(&self) -> String {
            std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    impl TermLike for Drawn {
        fn width(&self) -> u16 {
            100
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_jumps_while_numbers_grow() {
        let (drawn, failed) = (Drawn::default(), Arc::<AtomicU64>::default());
        let target = ProgressDrawTarget::term_like(Box::new(drawn.clone()));
        let bar = ProgressBar::with_draw_target(Some(1_234_567), target)
            .with_style(style(1_234_567, Arc::clone(&failed)))
            .with_prefix("sweep");
        let mut seen = Vec::new();
        for (read, bad) in
            [(0, 0), (9, 1), (999, 0), (12_345, 98), (700_000, 4_321), (521_213, 1_000)]
        {
            failed.fetch_add(bad, Relaxed);
            bar.inc(read);
            thread::sleep(Duration::from_millis(30));
            drawn.take();
            bar.force_draw();
            let line = drawn.take().trim_end_matches(['\n', '\r']).to_owned();
            let column = |part: &str| line.find(part).map(|at| line[..at].chars().count());
            seen.push((["/1,234,567 wallets, ", "/s, ", " failed, ", " left"].map(column), line));
        }
        let (columns, line) = seen[0].clone();
        assert!(columns.iter().all(Option::is_some), "{line:?}");
        assert!(seen.iter().all(|(other, _)| *other == columns), "{seen:#?}");
        assert!(seen[5].1.contains("1,234,566/1,234,567 wallets, "), "{seen:#?}");
        assert!(seen[5].1.contains("/s,     5,420 failed, "), "{seen:#?}");
    }
}
