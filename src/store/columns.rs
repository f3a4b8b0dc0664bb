//! Columns of parts, and statements with places for them.

use itertools::Itertools;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

/// A column of the table of totals that holds one part of each total.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartColumn {
    /// Its name.
    pub name: String,
    /// What it holds, the same for the same part: function and contract.
    pub holds: String,
}

/// A name as SQL takes any.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A statement with places for columns of parts, such as `{parts}`, or for a condition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Template(pub(super) &'static str);

impl Template {
    fn filled(self, places: &[(&str, String)]) -> SqlStr {
        let fill = |sql: String, (place, text): &(&str, String)| sql.replace(place, text);
        AssertSqlSafe(places.iter().fold(self.0.to_owned(), fill)).into_sql_str()
    }

    /// The statement that returns these columns as texts: a list, or what follows other columns.
    pub(super) fn returning(self, columns: &[PartColumn]) -> SqlStr {
        let text = |column: &PartColumn| format!("cast(stored.{} as text)", quoted(&column.name));
        let parts = columns.iter().map(text).join(", ");
        let behind = if parts.is_empty() { String::new() } else { format!(", {parts}") };
        self.filled(&[("{parts}", parts), ("{, parts}", behind)])
    }

    /// The statement with this condition, if any.
    pub(super) fn under(self, condition: Option<&str>) -> SqlStr {
        self.filled(&[("{condition}", condition.unwrap_or_default().to_owned())])
    }

    /// The statement that writes these columns under a condition, if any, and null to those of `all` that are not among
    /// them; `value` is how the statement takes the part of this number, from 1.
    pub(super) fn writing(
        self,
        columns: &[PartColumn],
        all: &[String],
        value: fn(usize) -> String,
        condition: Option<&str>,
    ) -> SqlStr {
        let each = |text: &dyn Fn(usize, String) -> String| -> String {
            let columns = (1..).zip(columns);
            columns.map(|(n, column)| format!(", {}", text(n, quoted(&column.name)))).collect()
        };
        let others = all.iter().filter(|name| columns.iter().all(|column| column.name != **name));
        let others: String = others.map(|name| format!(", {} = null", quoted(name))).collect();
        self.filled(&[
            ("{columns}", each(&|_, name| name)),
            ("{values}", each(&|n, _| value(n))),
            ("{arrays}", each(&|n, _| format!("${}::text[]", n + 4))),
            ("{names}", each(&|n, _| format!("part_{n}"))),
            ("{set}", each(&|_, name| format!("{name} = excluded.{name}")) + &others),
            ("{condition}", condition.unwrap_or_default().to_owned()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(names: &[&str]) -> Vec<PartColumn> {
        let column = |name: &&str| PartColumn { name: (*name).to_owned(), holds: String::new() };
        names.iter().map(column).collect()
    }

    #[test]
    fn columns_that_are_not_written_become_null() {
        let template = Template(
            "insert (wallet{columns}) select w{values} from u($4{arrays}) as r (w{names}) set x{set}{condition}",
        );
        let all = ["held", "old", "order"].map(str::to_owned);
        let sql = template.writing(
            &columns(&["order", "held"]),
            &all,
            |n| format!("v{n}"),
            Some(" where y"),
        );
        assert_eq!(
            sql.as_str(),
            "insert (wallet, \"order\", \"held\") select w, v1, v2 from u($4, $5::text[], $6::text[]) \
             as r (w, part_1, part_2) set x, \"order\" = excluded.\"order\", \"held\" = excluded.\"held\", \"old\" = null where y"
        );
        let sql = template.writing(&[], &[], |n| format!("v{n}"), None);
        assert_eq!(sql.as_str(), "insert (wallet) select w from u($4) as r (w) set x");
    }

    #[test]
    fn a_quoted_name_holds_quotes() {
        assert_eq!(quoted("he\"ld"), "\"he\"\"ld\"");
    }
}
