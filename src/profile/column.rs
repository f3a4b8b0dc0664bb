//! Which names a column of a part may have.

/// Longer names PostgreSQL would cut off.
const LONGEST: usize = 63;

/// Names that the table has, or that a database gives to every table: the original's columns, ours, those of the view
/// and of files with totals, and those of PostgreSQL and SQLite.
const TAKEN: [&str; 17] = [
    "wallet",
    "balance",
    "blocknumber",
    "updated_at",
    "created_at",
    "read_block",
    "fresh_at",
    "total",
    "ctid",
    "xmin",
    "xmax",
    "cmin",
    "cmax",
    "tableoid",
    "rowid",
    "oid",
    "_rowid_",
];

/// Refuses a name that the column of a part cannot have beside those of other parts.
pub(super) fn check<'a>(
    name: &str,
    mut others: impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    let is_plain = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if !is_plain || !name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_') {
        return Err(format!(
            "column {name:?} must be lower-case letters, digits and _, and must not start with a digit"
        ));
    }
    if name.len() > LONGEST {
        return Err(format!("column {name:?} must have at most {LONGEST} characters"));
    }
    if TAKEN.contains(&name) {
        return Err(format!("column {name:?} has another meaning in the table; use another name"));
    }
    if others.any(|other| other == name) {
        return Err(format!("column {name:?} is used by another [[read]]; use another name"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_an_identifier_that_is_not_taken() {
        let check = |name: &str| check(name, ["staked"].into_iter());
        for name in ["held", "_held_2", "order", "select", "part_1", "a", &"h".repeat(63)] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for (name, why) in [
            ("", "must be lower-case letters"),
            ("2held", "must be lower-case letters"),
            ("Held", "must be lower-case letters"),
            ("hel d", "must be lower-case letters"),
            ("held\"", "must be lower-case letters"),
            ("held;--", "must be lower-case letters"),
            ("hëld", "must be lower-case letters"),
            ("held\n", "must be lower-case letters"),
            (&"h".repeat(64), "must have at most 63 characters"),
            ("balance", "has another meaning in the table"),
            ("read_block", "has another meaning in the table"),
            ("ctid", "has another meaning in the table"),
            ("staked", "is used by another [[read]]"),
        ] {
            let error = check(name).expect_err(name);
            assert!(error.contains(why) && !error.contains('\n'), "{error}");
        }
    }
}
