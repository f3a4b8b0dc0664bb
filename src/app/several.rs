//! Several profiles in one command: which table is whose. Looks for mistakes before anything is opened.

use std::{collections::BTreeMap, sync::Arc};

use super::{App, MetricsFile};
use crate::{
    cli::{Command, Settings},
    profile::Profile,
    report::Report,
    rpc::{BlockChoice, Client, ClientSettings, Contracts},
    store,
    tally::{RunError, Shutdown},
};

/// What each profile of the settings gets, in order; one for the built-in profile if none is given.
///
/// # Errors
/// When a profile is refused, tables and profiles do not match, or `command` takes one profile only.
pub fn apps_of_each(
    settings: Settings,
    command: &Command,
    report: &Report,
    shutdown: &Shutdown,
    metrics_file: Option<Arc<MetricsFile>>,
) -> Result<Vec<App>, RunError> {
    if settings.node.profile.len() < 2 || command.is_for_packagers() {
        let settings = match command.is_for_packagers() {
            true => settings,
            false => of_each(settings)?.remove(0),
        };
        let app = App::new(settings, report.clone(), shutdown.clone())?;
        return Ok(vec![App { metrics_file, ..app }]);
    }
    check_command(command)?;
    let app = |settings: Settings| {
        // A limit of time of one run must not end the others.
        let app = App::new(settings, report.of_profile(), shutdown.child())?;
        let file = metrics_file.as_ref().map(|file| file.of_profile(&app.profile.name));
        Ok(App { metrics_file: file.map(Arc::new), ..app })
    };
    let apps: Vec<App> =
        of_each(settings)?.into_iter().map(app).collect::<Result<_, RunError>>()?;
    check_names(&apps)?;
    check_tables(&apps)?;
    Ok(apps)
}

/// A client of the node for the events and totals of all these profiles, which are of one chain. Sends nothing yet.
///
/// # Errors
/// As [`App::client`], and where their chains differ.
pub fn shared_client(apps: &[App]) -> Result<Arc<Client>, RunError> {
    let [first, others @ ..] = apps else { return Err(RunError::settings("no profile is given")) };
    if let Some(other) = others.iter().find(|app| app.profile.chain_id != first.profile.chain_id) {
        return Err(RunError::settings(format!(
            "profiles {} and {} are of different chains, {} and {}; run a watch for each chain",
            first.profile.name, other.profile.name, first.profile.chain_id, other.profile.chain_id
        )));
    }
    let settings = ClientSettings {
        block: BlockChoice::Latest,
        max_head_age: apps.iter().filter_map(App::max_head_age).min(),
        ..first.client_settings(first.urls()?, Contracts::OfEvents)
    };
    let profile = Profile::together(apps.iter().map(|app| &app.profile));
    let profile = profile.unwrap_or_else(|| first.profile.clone());
    Ok(Arc::new(Client::new(settings, &profile, first.shutdown.clone())?))
}

/// Refuses what one command cannot do for several profiles.
fn check_command(command: &Command) -> Result<(), RunError> {
    let name = command.name();
    let why = match command {
        Command::Profile => "prints one profile; give one --profile",
        Command::Snapshot(_) => {
            "takes one --profile, as each snapshot is a file of its own; run it for each"
        }
        Command::Backfill(args) if args.from_csv.as_os_str() == "-" => {
            "reads standard input only once; give --from-csv a file for several profiles"
        }
        _ if command.changes().is_some() => {
            "--changes does not say of which profile a total is; run it for each profile, with a file of its own"
        }
        _ => return Ok(()),
    };
    Err(RunError::settings(format!("{name}: {why}")))
}

/// The settings of each profile: with one profile, one database, and one schema or none.
fn of_each(settings: Settings) -> Result<Vec<Settings>, RunError> {
    let profiles = settings.node.profile.clone();
    let (urls, schemas) =
        (settings.database.database_url.clone(), settings.database.schema.clone());
    let count = profiles.len().max(1);
    if urls.len() != 1 && urls.len() != count {
        let given = match &settings.database.database_url_file {
            Some(path) => format!("--database-url-file {} has {} URLs", path.display(), urls.len()),
            None => format!("--database-url is given {} times", urls.len()),
        };
        return Err(RunError::settings(match count {
            1 => format!("{given} for one profile; give one"),
            _ => format!(
                "{given} for {count} profiles; give one database, or one for each profile in the same order"
            ),
        }));
    }
    if !schemas.is_empty() && schemas.len() != count {
        return Err(RunError::settings(match (count, schemas.len()) {
            (1, times) => format!("--schema is given {times} times for one profile; give one"),
            (_, times) => format!(
                "--schema is given {} for {count} profiles; give one for each profile, in the same order",
                if times == 1 { "once".to_owned() } else { format!("{times} times") }
            ),
        }));
    }
    let of = |index: usize| {
        let mut own = settings.clone();
        own.node.profile = profiles.get(index).cloned().into_iter().collect();
        let url = urls.get(index).or(urls.first());
        own.database.database_url = url.cloned().into_iter().collect();
        own.database.schema = schemas.get(index).cloned().into_iter().collect();
        own
    };
    Ok((0..count).map(of).collect())
}

/// Results are told apart by the names of their profiles.
fn check_names(apps: &[App]) -> Result<(), RunError> {
    let mut seen: BTreeMap<&str, &App> = BTreeMap::new();
    for app in apps {
        let path = |app: &App| {
            let path = app.settings.node.profile.first();
            path.map_or_else(String::new, |path| path.display().to_string())
        };
        if let Some(before) = seen.insert(&app.profile.name, app) {
            let (one, other) = (path(before), path(app));
            return Err(RunError::settings(match one == other {
                true => format!("--profile {one} is given twice; give each profile once"),
                false => format!(
                    "profiles {one} and {other} have the same name, {}; give each a name of its own",
                    app.profile.name
                ),
            }));
        }
    }
    Ok(())
}

/// Refuses two profiles that would share a table.
fn check_tables(apps: &[App]) -> Result<(), RunError> {
    let mut seen: BTreeMap<String, &App> = BTreeMap::new();
    for app in apps {
        let place = store::place(app.database_url(), app.schema());
        if let Some(before) = seen.insert(place, app) {
            return Err(RunError::settings(format!(
                "profiles {} and {} would share a table, and a table has one profile; give each a --schema of its \
                 own, or, for SQLite, a --database-url",
                before.profile.name, app.profile.name
            )));
        }
    }
    Ok(())
}
