//! Two profiles with a table each: in two schemas of PostgreSQL, or in two files.

use std::fs;

use alloy::primitives::{Address, address};
use ethtally_testbed::contracts::AUDIO;

use crate::support::{
    database::Database,
    program::{Ethtally, ethtally},
};

/// A token beside AUDIO.
pub(crate) const OTHER: Address = address!("0000000000000000000000000000000000070ce2");

/// The profile of an ERC-20 token.
pub(crate) fn token_profile(name: &str, token: Address) -> String {
    format!(
        "name = \"{name}\"\nchain_id = 1\nsymbol = \"{}\"\ndecimals = 18\ncheckpoint = \"{name}_transfers\"\n\n\
         [[read]]\ncontract = \"{token}\"\nfunction = \"balanceOf(address)\"\n\n\
         [[event]]\ncontract = \"{token}\"\n\
         event = \"Transfer(address indexed from, address indexed to, uint256 value)\"\n\
         wallets = [\"from\", \"to\"]\n",
        name.to_uppercase()
    )
}

/// Profiles in files, each with a table.
pub(crate) struct Tables {
    /// `--profile` of each, and where the tables are.
    pub(crate) arguments: Vec<String>,
    /// The same for each profile alone.
    pub(crate) alone: [Vec<String>; 2],
    /// Each table, for SQL.
    pub(crate) each: [Database; 2],
    /// Keeps the files.
    _database: Database,
}

impl Tables {
    /// Tables for these profiles, by their names and texts; they are not there yet.
    pub(crate) fn of(database: Database, profiles: [(&str, String); 2]) -> Self {
        let files = profiles.map(|(name, text)| {
            let file = database.folder().join(format!("{name}.toml"));
            fs::write(&file, text).expect("a file");
            file.display().to_string()
        });
        let (alone, each) = if database.is_sqlite() {
            let each = [Database::sqlite(), Database::sqlite()];
            let place = |index: usize| vec!["--database-url".to_owned(), each[index].url.clone()];
            ([place(0), place(1)], each)
        } else {
            let schemas = ["first", "second \"own\""];
            let place = |index: usize| {
                let schema = ["--schema".to_owned(), schemas[index].to_owned()];
                vec![
                    "--database-url".to_owned(),
                    database.url.clone(),
                    schema[0].clone(),
                    schema[1].clone(),
                ]
            };
            let of = |path: &str| {
                let mark = if database.url.contains('?') { '&' } else { '?' };
                Database::at(format!("{}{mark}options=-csearch_path%3D{path}", database.url))
            };
            ([place(0), place(1)], [of("first"), of("%22second%5C%20%22%22own%22%22%22")])
        };
        let alone = [0, 1].map(|index: usize| {
            [vec!["--profile".to_owned(), files[index].clone()], alone[index].clone()].concat()
        });
        let mut arguments = alone.concat();
        if !database.is_sqlite() {
            // One database is given once.
            let second = arguments.iter().rposition(|argument| argument == "--database-url");
            arguments.drain(second.expect("two")..second.expect("two") + 2);
        }
        Self { arguments, alone, each, _database: database }
    }

    /// The profiles of AUDIO and of [`OTHER`].
    pub(crate) fn of_tokens(database: Database) -> Self {
        let profiles = [("audio", AUDIO), ("other", OTHER)];
        Self::of(database, profiles.map(|(name, token)| (name, token_profile(name, token))))
    }

    /// A run for both profiles.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ethtally {
        let own = self.arguments.iter().map(String::as_str);
        ethtally(arguments.iter().copied().chain(own))
    }

    /// A run for one of them.
    pub(crate) fn run_alone(&self, index: usize, arguments: &[&str]) -> Ethtally {
        let own = self.alone[index].iter().map(String::as_str);
        ethtally(arguments.iter().copied().chain(own))
    }
}
