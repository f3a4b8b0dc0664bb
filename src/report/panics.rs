//! A panic as one line of stderr, like every error: without a backtrace, and without secrets.

use std::{
    any::Any,
    io::{self, Write},
    panic,
};

use super::line::{LineKind, LineMaker};

/// Prints panics in these lines from now on.
pub(super) fn catch(lines: LineMaker) {
    panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(|place| (place.file(), place.line()));
        let line = lines.line(LineKind::Error, &words(panic.payload(), place));
        // Not through the writer: what panics may be its thread.
        let _ = io::stderr().write_all(line.as_bytes());
    }));
}

fn words(payload: &(dyn Any + Send), place: Option<(&str, u32)>) -> String {
    let why = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic");
    // Where it was compiled says nothing: of a library, its folder in the registry is enough.
    let short = |file: &str| match file.rsplit_once("/registry/src/") {
        Some((_, path)) => path.split_once('/').map_or(path, |(_, path)| path).to_owned(),
        None => file.to_owned(),
    };
    let place = place.map(|(file, line)| format!(" ({}:{line})", short(file))).unwrap_or_default();
    format!("internal error, please report it: {why}{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_says_what_and_where() {
        let place = Some(("/home/me/.cargo/registry/src/index-1/hyper-1/src/a.rs", 7));
        assert_eq!(
            words(&"no\nway", place),
            "internal error, please report it: no\nway (hyper-1/src/a.rs:7)"
        );
        let own = Some(("src/main.rs", 1));
        assert_eq!(
            words(&"why".to_owned(), own),
            "internal error, please report it: why (src/main.rs:1)"
        );
        assert_eq!(words(&1, None), "internal error, please report it: a panic");
    }
}
