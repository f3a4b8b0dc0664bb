//! Names as people write them.

use super::super::columns::quoted;

/// Names that SQL takes only between quotes, among those that people use.
const RESERVED: [&str; 8] =
    ["all", "analyze", "current_user", "default", "group", "order", "table", "user"];

/// A name as people write it in SQL.
pub(super) fn identifier(name: &str) -> String {
    let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && !RESERVED.contains(&name);
    if is_plain { name.to_owned() } else { quoted(name) }
}
