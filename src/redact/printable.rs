//! What of a text can be printed: no control characters, no escape sequences, nothing that is not seen.

use std::{iter::Peekable, str::Chars};

/// The text without what is not printed; line breaks and tabs become blanks.
pub(super) fn only(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => escape(&mut rest),
            // The same sequences with one character in front.
            '\u{9b}' => control_sequence(&mut rest),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => control_string(&mut rest),
            '\t'..='\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => printed.push(' '),
            c if is_unseen(c) => {}
            c => printed.push(c),
        }
    }
    printed
}

/// Takes what belongs to an escape.
fn escape(rest: &mut Peekable<Chars<'_>>) {
    match rest.peek() {
        Some('[') => {
            rest.next();
            control_sequence(rest);
        }
        Some(']' | 'P' | 'X' | '^' | '_') => {
            rest.next();
            control_string(rest);
        }
        // Such as the choice of a character set.
        Some(' '..='/') => {
            while rest.next_if(|c| matches!(c, ' '..='/')).is_some() {}
            rest.next_if(|c| matches!(c, '0'..='~'));
        }
        _ => {
            rest.next_if(|c| matches!(c, '0'..='~'));
        }
    }
}

/// Takes a control sequence behind its start.
fn control_sequence(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| matches!(c, ' '..='?')).is_some() {}
    rest.next_if(|c| matches!(c, '@'..='~'));
}

/// Takes a control string behind its start, if it has an end; without one it is text.
fn control_string(rest: &mut Peekable<Chars<'_>>) {
    let mut ahead = rest.clone();
    while let Some(c) = ahead.next() {
        match c {
            '\u{7}' | '\u{9c}' => {
                *rest = ahead;
                return;
            }
            '\u{1b}' if ahead.peek() == Some(&'\\') => {
                ahead.next();
                *rest = ahead;
                return;
            }
            '\n' | '\r' => return,
            _ => {}
        }
    }
}

/// True for what takes no place or changes the order of what does.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_printed_is_left() {
        for (text, expected) in [
            ("plain é 🦀", "plain é 🦀"),
            ("a\0b\u{7f}c\u{8}d", "abcd"),
            ("one\r\ntwo\tthree\u{85}four\u{2028}five", "one  two three four five"),
            ("\u{1b}[1;31mred\u{1b}[0m", "red"),
            ("\u{1b}[2J\u{1b}[10;1Hover", "over"),
            ("\u{9b}31mred", "red"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}]0;no end", "0;no end"),
            ("\u{1b}(Bset\u{1b}cdone\u{1b}", "setdone"),
            ("\u{202e}evil\u{2066}\u{200d}\u{feff}x", "evilx"),
        ] {
            assert_eq!(only(text), expected, "{text:?}");
        }
    }
}
