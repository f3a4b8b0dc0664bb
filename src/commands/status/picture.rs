//! What is looked at rather than read: bars and a sparkline, in ASCII where no terminal shows them.

use std::time::Duration;

use itertools::Itertools;

use crate::{
    report::{BAD, RunOutcome, Styler},
    store::Run,
};

/// The longest bar, in characters.
const WIDTH: u64 = 30;
/// Parts of a block, from an eighth to the whole.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
/// Heights of a sparkline.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The same in ASCII.
const PLAIN_HEIGHTS: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];

/// A bar for `part` of `most`; any part has something to see.
pub(super) fn bar(part: u64, most: u64, styler: &Styler) -> String {
    let eighths = scaled(part, most, WIDTH * 8).max(u64::from(part > 0));
    let (full, rest) = ((eighths / 8) as usize, (eighths % 8) as usize);
    if !styler.is_terminal() {
        return "#".repeat(full + usize::from(rest > 0));
    }
    let last = if rest > 0 { EIGHTHS[rest - 1].to_string() } else { String::new() };
    EIGHTHS[7].to_string().repeat(full) + &last
}

/// A share in per cent.
pub(super) fn share(part: u64, of: u64) -> String {
    match scaled(part, of, 100) {
        0 if part > 0 => "<1 %".to_owned(),
        100 if part < of => ">99 %".to_owned(),
        percent => format!("{percent} %"),
    }
}

/// The wallets that each of these runs has updated, the newest run last.
pub(super) fn sparkline(runs: &[Run], styler: &Styler) -> String {
    let updated = |run: &Run| run.counts["updated"].as_u64().unwrap_or(0);
    let most = runs.iter().map(updated).max().unwrap_or(0);
    let heights = if styler.is_terminal() { HEIGHTS } else { PLAIN_HEIGHTS };
    let mark = |run: &Run| match run.outcome.as_str() {
        outcome if outcome == RunOutcome::Failed.name() => styler.style(BAD, "x"),
        outcome if outcome == RunOutcome::Skipped.name() => "s".to_owned(),
        _ => heights[scaled(updated(run), most, 7) as usize].to_string(),
    };
    let marks = runs.iter().rev().map(mark).join("");
    let scale = match most {
        0 => "no wallet updated".to_owned(),
        most => format!("{most} wallets updated at the highest"),
    };
    format!("{marks}  the last {}, oldest first; {scale}; x failed, s skipped", runs.len())
}

/// An age for people, in its two largest units.
pub(super) fn ago(seconds: u64) -> String {
    let unit = match seconds {
        0..3_600 => 1,
        3_600..86_400 => 60,
        _ => 3_600,
    };
    humantime::format_duration(Duration::from_secs(seconds / unit * unit)).to_string()
}

/// `part` where `of` is `whole`, rounded.
fn scaled(part: u64, of: u64, whole: u64) -> u64 {
    let of = u128::from(of.max(1));
    let scaled = (u128::from(part) * u128::from(whole) + of / 2) / of;
    u64::try_from(scaled).unwrap_or(whole).min(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_but_never_to_nothing_or_all() {
        let shares = [(0, 5), (5, 5), (1, 3), (1, 1_000), (999, 1_000), (0, 0)]
            .map(|(part, of)| share(part, of));
        assert_eq!(shares, ["0 %", "100 %", "33 %", "<1 %", ">99 %", "0 %"]);
    }

    #[test]
    fn a_bar_is_plain_where_no_terminal_shows_it() {
        let plain = |part, most| bar(part, most, &Styler::default());
        assert_eq!(plain(0, 10), "");
        assert_eq!(plain(1, 1_000_000), "#");
        assert_eq!(plain(5, 10).len(), 15);
        assert_eq!(plain(10, 10).len(), 30);
    }
}
