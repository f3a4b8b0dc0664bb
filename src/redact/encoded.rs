//! What credentials look like when they are sent or logged in another form: base64, as in `Authorization: Basic`,
//! and hexadecimal digits.

use std::fmt::Write as _;

use base64::{
    Engine,
    alphabet::{Alphabet, STANDARD, URL_SAFE},
    engine::general_purpose::{GeneralPurpose, NO_PAD},
};

/// Encoded texts shorter than this may be words.
const SHORTEST: usize = 6;

/// The text without its percent-encoding.
pub fn percent_decoded(text: &str) -> String {
    // In a form a plus is a space; in a password it is a plus.
    let encoded = format!("key={}", text.replace('+', "%2B").replace('&', "%26"));
    url::form_urlencoded::parse(encoded.as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

/// `user:password` of a URL, as it stands and without its percent-encoding.
pub(super) fn basic_credentials(url: &str) -> Vec<String> {
    let Some((_, rest)) = url.split_once("://") else { return Vec::new() };
    // As it was meant, with whatever stands in it bare; else it ends where the host begins.
    let bare = rest.rsplit_once('@').map(|(user, _)| user);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let strict = authority.rsplit_once('@').map(|(user, _)| user);
    let mut all = Vec::new();
    for credentials in bare.into_iter().chain(strict) {
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        all.push(format!("{user}:{password}"));
        all.push(format!("{}:{}", percent_decoded(user), percent_decoded(password)));
    }
    all
}

/// A text in base64, of both alphabets, by itself and in the middle of a longer text; and in hexadecimal digits.
pub(super) fn forms(text: &str) -> impl Iterator<Item = String> {
    let bytes = text.as_bytes();
    let mut forms = vec![hexadecimal(bytes), hexadecimal(bytes).to_uppercase()];
    for alphabet in [&STANDARD, &URL_SAFE] {
        let plain = encode(alphabet, bytes);
        // Padded first: the longest is hidden first.
        forms.push(format!("{plain}{}", "=".repeat((4 - plain.len() % 4) % 4)));
        forms.push(plain);
        forms.extend((0..3).map(|before| middle(alphabet, bytes, before)));
    }
    forms.into_iter().filter(|form| form.len() >= SHORTEST)
}

/// The characters that stand for nothing but these bytes, if `before` bytes precede them in their group of three.
fn middle(alphabet: &Alphabet, bytes: &[u8], before: usize) -> String {
    let shifted: Vec<u8> = std::iter::repeat_n(0, before).chain(bytes.iter().copied()).collect();
    let encoded = encode(alphabet, &shifted);
    // A character has six bits: those with a bit of what precedes or follows are left out.
    let (first, behind) = ((before * 8).div_ceil(6), shifted.len() * 8 / 6);
    encoded.get(first..behind).unwrap_or_default().to_owned()
}

fn encode(alphabet: &Alphabet, bytes: &[u8]) -> String {
    GeneralPurpose::new(alphabet, NO_PAD).encode(bytes)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
