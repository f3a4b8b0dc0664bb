//! One life: what runs in a world, and what must be true after it.

use std::{collections::BTreeMap, time::Duration};

use ethtally::{
    read::MethodChoice,
    rpc::BlockChoice,
    tally::{RunError, Wallet},
};
use tokio::{runtime::Builder, time::timeout};

use crate::{
    causes,
    contracts::Sickness,
    faults::Kind,
    focus::Focus,
    node::{Node, Overrides},
    one_shot, watch,
    world::{EPOCH, FOREVER, RETRIES, Run, World},
};

/// The longest that a life may take, in its own time.
const LONGEST: Duration = Duration::from_secs(4 * 3_600);
/// Without a hint, a rate limit is waited out for as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of a life.
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) run: Run,
    pub(crate) summary: String,
    /// What was wrong: of which kind, and what exactly.
    pub(crate) violations: Vec<(&'static str, String)>,
    pub(crate) trace: Vec<String>,
    pub(crate) fingerprint: u64,
    pub(crate) requests: u64,
    /// How often each fault struck.
    pub(crate) struck: BTreeMap<&'static str, u64>,
    /// Whether it ended with an error, and rightly.
    pub(crate) failed_truly: bool,
}

/// A world, and what was found wrong in it.
pub(crate) struct Life {
    pub(crate) world: World,
    pub(crate) violations: Vec<(&'static str, String)>,
    pub(crate) failed_truly: bool,
}

/// Lives the life of this seed, with one kind of trouble only if there is a focus.
pub(crate) fn live(seed: u64, focus: Option<Focus>) -> Report {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    // The pauses of `watch` draw from it.
    fastrand::seed(seed);
    runtime.block_on(async {
        let world = World::draw(seed, focus);
        let mut life = Life { world, violations: Vec::new(), failed_truly: false };
        life.run().await;
        let mut book = life.world.field.book();
        Report {
            seed,
            run: life.world.run,
            summary: life.world.summary.clone(),
            violations: life.violations,
            trace: std::mem::take(&mut book.trace),
            fingerprint: book.fingerprint(),
            requests: book.requests,
            struck: std::mem::take(&mut book.struck),
            failed_truly: life.failed_truly,
        }
    })
}

impl Life {
    async fn run(&mut self) {
        let field = std::sync::Arc::clone(&self.world.field);
        let run = self.world.run;
        let living = async {
            match run {
                Run::Sweep => one_shot::live(self).await,
                Run::Watch | Run::Both => watch::live(self).await,
            }
        };
        let ended = tokio::select! {
            biased;
            ended = timeout(LONGEST, living) => ended.map_err(|_| "it took more than 4 hours"),
            () = field.too_many.notified() => Err("it sent too many requests"),
        };
        if let Err(why) = ended {
            self.wrong("no end", why.to_owned());
        }
    }

    /// Notes something that should not be.
    pub(crate) fn wrong(&mut self, kind: &'static str, what: String) {
        self.world.field.tell(format!("WRONG: {kind}: {what}"));
        self.violations.push((kind, what));
    }

    /// The sickness of a wallet, if it has one.
    pub(crate) fn sickness(&self, wallet: &Wallet) -> Option<Sickness> {
        let chain = self.world.field.chain();
        let index = chain.contracts.wallet(&wallet.address())?;
        chain.contracts.sick.get(&index).copied()
    }

    /// An error of a run must have a true cause, and must be due.
    pub(crate) fn check_run(&mut self, error: Option<&RunError>) {
        let Some(error) = error else { return };
        let text = one_shot::text(error);
        let nodes = &self.world.nodes;
        let all = |is: &dyn Fn(&Node) -> bool| nodes.iter().all(|node| is(node));
        let is_sick = |node: &Node| sickness_of(node).is_some();
        let has_wrong_settings = |node: &Node| {
            let is_of_settings = |kind| matches!(kind, Kind::WrongChain | Kind::Resyncs);
            node.character.faults.iter().any(|fault| is_of_settings(fault.kind))
                || self.world.method == MethodChoice::Packed
                    && node.character.overrides != Overrides::Takes
        };
        let (longest, limited) = {
            let book = self.world.field.book();
            (book.longest, book.longest_limited)
        };
        let is_due = longest > RETRIES || limited >= PATIENCE || all(&is_sick);
        let packed_only = self.world.method == MethodChoice::Packed
            && all(&|node| is_sick(node) || node.character.overrides != Overrides::Takes);
        let all_wrong = all(&has_wrong_settings);
        match error {
            RunError::Settings(_) if all_wrong => self.failed_truly = true,
            RunError::Settings(_) => self.wrong("settings blamed", text.clone()),
            RunError::Node(_) if is_due || packed_only => self.failed_truly = true,
            RunError::Node(_) => {
                self.wrong("gave up", format!("after {longest} failures in a row: {text}"));
            }
            RunError::Database(_) if self.world.database.tables().failed > 0 => {
                self.failed_truly = true;
            }
            RunError::Unreadable(_) => {
                let wallets = self.world.wallets();
                if wallets.iter().any(|wallet| self.sickness(wallet).is_none()) {
                    self.wrong("all called unreadable", text.clone());
                }
            }
            _ => self.wrong("strange error", format!("{error:?}")),
        }
        self.check_text(&text);
        if let Err(what) = causes::check(&self.world, &text) {
            self.wrong("untrue cause", format!("{what}: {text}"));
        }
    }

    /// What people read must be clean.
    fn check_text(&mut self, text: &str) {
        if text.chars().any(char::is_control) {
            self.wrong("dirty text", format!("control characters: {text:?}"));
        }
        if text.chars().count() > 3_000 {
            self.wrong("dirty text", format!("{} characters", text.chars().count()));
        }
    }

    /// Rows and failures after one run that began with an empty table.
    pub(crate) fn check_rows_of_run(&mut self, has_succeeded: bool) {
        let wallets = self.world.wallets();
        let database = std::sync::Arc::clone(&self.world.database);
        let tables = database.tables();
        for (index, wallet) in wallets.iter().enumerate() {
            let sickness = self.sickness(wallet);
            if let Some(row) = tables.rows.get(wallet) {
                if let Some(sickness) = sickness {
                    self.wrong("sick wallet has a row", format!("{wallet} {sickness:?} {row:?}"));
                }
                let is_right = {
                    let chain = self.world.field.chain();
                    let blocks = chain.ever(row.read_block);
                    blocks.into_iter().any(|block| chain.total(block, index) == row.total)
                };
                if !is_right {
                    self.wrong("wrong row", format!("{wallet} {row:?}"));
                } else if self.is_stale(row.read_block) {
                    self.wrong("stale row", format!("{wallet} {row:?}"));
                }
            } else if has_succeeded && sickness.is_none() {
                self.wrong("no row", format!("{wallet} was not stored"));
            }
            if let Some(reason) = tables.failures.get(wallet) {
                if sickness.is_none() {
                    self.wrong("healthy wallet called unreadable", format!("{wallet}: {reason}"));
                }
                self.check_reason(reason);
            } else if has_succeeded && sickness.is_some() {
                self.wrong("no failure recorded", format!("{wallet} {sickness:?}"));
            }
        }
    }

    /// Whether the newest block should not have been this one.
    fn is_stale(&self, number: u64) -> bool {
        if self.world.block != BlockChoice::Latest {
            return false;
        }
        let chain = self.world.field.chain();
        let made = chain.ever(number).into_iter().map(|block| chain.blocks[block].timestamp).max();
        made.is_some_and(|made| made + self.world.max_head_age().as_secs() < EPOCH)
    }

    pub(crate) fn check_reason(&mut self, reason: &str) {
        let length = reason.chars().count();
        if length > 1_000 || reason.chars().any(char::is_control) {
            let short: String = reason.chars().take(200).collect();
            self.wrong("dirty text", format!("reason of {length} characters: {short:?}"));
        }
    }
}

/// What makes this endpoint of no use, for good.
pub(crate) fn sickness_of(node: &Node) -> Option<Kind> {
    let is_sickness = |fault: &&crate::faults::Fault| fault.percent == 100 && fault.to == FOREVER;
    node.character.faults.iter().find(is_sickness).map(|fault| fault.kind)
}
