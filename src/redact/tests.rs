//! Secrets and poison in texts.

use super::*;

#[test]
fn of_a_url_only_scheme_and_host_are_left() {
    for (text, expected) in [
        ("https://eth.host/v2/KEY failed", "https://eth.host failed"),
        ("at https://user:word@host:8545/x?key=1: no", "at https://host:8545 no"),
        ("invalid value 'https://host/KEY' for", "invalid value 'https://host' for"),
        ("postgres://u:pa/ss@db/x", "postgres://db"),
        ("postgres://u:p@ss@db/x", "postgres://db"),
        (
            "database postgres://127.0.0.1:5432: refused",
            "database postgres://127.0.0.1:5432: refused",
        ),
        ("http://[::1]:8545/x and wss://b/y", "http://[::1]:8545 and wss://b"),
        ("no URL at all", "no URL at all"),
    ] {
        assert_eq!(without_urls(text), expected);
    }
}

#[test]
fn what_a_url_hid_is_hidden_on_its_own_too() {
    remember("https://eth.host/v2/abcdef0123456789?token=zyxwvu987654");
    remember("--database-url=postgres://app:s3cr%2Fet@db/x");
    remember("http:/host/v3/0123456789slash");
    let text = "bad key abcdef0123456789, token zyxwvu987654, password s3cr/et or s3cr%2Fet of app";
    assert_eq!(clean(text), "bad key ***, token ***, password *** or *** of app");
    assert_eq!(clean("no project 0123456789slash"), "no project ***");
    remember(r"--database-url=host=db user=app password='pa ss\'word' dbname=x");
    remember("host=db password=listed4711 dbname=x");
    assert_eq!(clean(r"pa ss\'word, pa ss'word and listed4711"), "***, *** and ***");
}

#[test]
fn a_password_that_looks_like_a_port_makes_a_url_ambiguous() {
    for url in [
        "postgres://app:47/11@db/x",
        "postgres://app:47?11@db/x",
        "https://app:47#11@host",
        "https://app:47\\11@host",
        "https://app:47/?11@host",
    ] {
        assert!(is_ambiguous(url), "{url}");
    }
    for url in [
        "postgres://app:47%2F11@db:5432/x",
        "postgres://db:5432/x?user=app@server",
        "https://host:8545/v2/key?mail=a@b",
        "https://host/@team/key",
        "https://host",
        "sqlite:a@b.db",
    ] {
        assert!(!is_ambiguous(url), "{url}");
    }
}

#[test]
fn an_error_tells_each_cause_once() {
    let refused = anyhow::anyhow!("refused");
    let error = refused.context("no connection: refused").context("http://host");
    assert_eq!(clean_error(error.as_ref()), "http://host: no connection: refused");
}

#[test]
fn a_text_becomes_one_line() {
    assert_eq!(clean("one\n  two\tthree"), "one two three");
}

#[test]
fn a_text_of_others_is_short_and_no_secret_is_cut_in_two() {
    assert_eq!(excerpt(&"é".repeat(1_000)), "é".repeat(1_000));
    assert_eq!(excerpt(&"é".repeat(1_001)), format!("{}…", "é".repeat(999)));
    assert_eq!(excerpt(&format!("a{}b", " ".repeat(BOUND))), "a…");

    remember("https://bounded.host/v2/fedcba98765432100000");
    for key in [
        "fedcba98765432100000",
        "https://bounded.host/v2/fedcba98765432100000",
        "http://u:pass1word@x/",
    ] {
        for cut in 1..key.len() {
            let text = format!("{}{key} behind", " ".repeat(BOUND - cut));
            let shown = excerpt(&text);
            let shows = |part: &str| shown.contains(part);
            assert!(!["fe", "v2", "u:", "pa"].into_iter().any(shows), "{cut}: {shown}");
        }
    }
    let kept_apart = "key fedcba98\u{0}76543210\u{200b}0000 of a node";
    assert_eq!(excerpt(kept_apart), "key *** of a node");
}

/// Base64 as others write it.
fn base64(text: &str, url_safe: bool, padded: bool) -> String {
    use base64::{Engine, prelude as b};
    match (url_safe, padded) {
        (false, true) => b::BASE64_STANDARD.encode(text),
        (false, false) => b::BASE64_STANDARD_NO_PAD.encode(text),
        (true, true) => b::BASE64_URL_SAFE.encode(text),
        (true, false) => b::BASE64_URL_SAFE_NO_PAD.encode(text),
    }
}

#[test]
fn credentials_are_hidden_in_base64_too() {
    remember("https://basicuser:w%3Frd~~%3E%3E4711%3F@basic.host/v2/base64key0123456789");
    remember("postgres://basicapp:plain+word@db/x");
    remember("https://lonelykey4711@lonely.host");
    for credentials in [
        "basicuser:w?rd~~>>4711?",
        "basicuser:w%3Frd~~%3E%3E4711%3F",
        "basicapp:plain+word",
        "lonelykey4711:",
        "w?rd~~>>4711?",
        "base64key0123456789",
    ] {
        for (url_safe, padded) in [(false, true), (false, false), (true, true), (true, false)] {
            let encoded = base64(credentials, url_safe, padded);
            assert_eq!(clean(&format!("Basic {encoded} no")), "Basic *** no", "{credentials}");
        }
        // In the middle of a longer text no four characters of it are left.
        for around in ["", "a", "ab", "abc"] {
            let whole = base64(&format!("{around}{credentials}{around} behind"), false, true);
            let shown = clean(&whole);
            let left =
                (0..whole.len() - 3).filter(|at| shown.contains(&whole[*at..at + 4])).count();
            assert!(shown.contains("***") && left < whole.len() - credentials.len(), "{shown}");
        }
    }
}

#[test]
fn what_a_file_of_secrets_holds_is_hidden_whole() {
    remember_contents(
        "token-without-url-4711\n https://filed.host/v2/filedkey0123456789 ,\nsqlite:filed.db",
    );
    assert_eq!(
        clean("token-without-url-4711 filedkey0123456789 sqlite:filed.db"),
        "*** *** sqlite:filed.db"
    );
}
