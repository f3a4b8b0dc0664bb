//! A world, drawn from a seed: chain, contracts, wallets, endpoints and database.

use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use ethtally::{
    follow::Track,
    profile::Profile,
    read::{ChunkLimit, MethodChoice, NodeReader, ReaderSettings},
    rpc::{
        Ambient, BlockChoice, Client, ClientSettings, Contracts as Expected, RateLimits, Transport,
    },
    tally::{Shutdown, Wallet},
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::time::sleep;

use crate::{
    chain::{Activity, Chain},
    database::{Database, Illness, Row},
    draw::{character, contracts, shown},
    faults::Kind,
    field::Field,
    focus::Focus,
    node::{Character, Node, Overrides},
};

/// Retries of a request, as by default.
pub(crate) const RETRIES: u32 = 5;
/// Seconds since 1970 when a life begins.
pub(crate) const EPOCH: u64 = 1_800_000_000;
/// As long as there is.
pub(crate) const FOREVER: Duration = Duration::from_secs(1_000_000);

/// An endpoint that has stopped syncing.
pub(crate) const STALE: Kind = Kind::GoesBack(28);

/// What runs in a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// A sweep.
    Sweep,
    /// `watch`, killed and started again now and then.
    Watch,
    /// The same, with sweeps beside it.
    Both,
}

impl Run {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sweep => "sweep",
            Self::Watch => "watch",
            Self::Both => "both",
        }
    }
}

/// Everything that a life takes place in.
pub(crate) struct World {
    pub(crate) run: Run,
    pub(crate) field: Arc<Field>,
    pub(crate) database: Arc<Database>,
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) profile: Profile,
    pub(crate) method: MethodChoice,
    /// The block that a sweep reads at.
    pub(crate) block: BlockChoice,
    /// When a sweep is stopped.
    pub(crate) stop: Option<Duration>,
    chunk: ChunkLimit,
    concurrency: usize,
    /// In so many of a thousand blocks' places a reorganisation comes, of so many blocks at most.
    pub(crate) reorgs: (u32, u64),
    block_time: Duration,
    /// As of which block rows are right at the beginning.
    pub(crate) begin: u64,
    pub(crate) track: Track,
    /// How many blocks come while faults strike, and how many after that.
    pub(crate) blocks: u64,
    pub(crate) quiet: u64,
    pub(crate) seed: u64,
    pub(crate) summary: String,
}

/// Draws one of some values.
pub(crate) fn one<T: Copy>(random: &mut StdRng, of: &[T]) -> T {
    *of.choose(random).expect("some")
}

/// True in so many of a hundred cases.
pub(crate) fn percent(random: &mut StdRng, percent: u32) -> bool {
    random.random_range(0..100) < percent
}

/// A number whose logarithm is evenly spread.
pub(crate) fn spread(random: &mut StdRng, from: u64, to: u64) -> u64 {
    let exponent = random.random_range((from as f64).ln()..(to as f64).ln());
    exponent.exp() as u64
}

impl World {
    /// The world of this seed, with all that may come or with one kind of trouble only.
    pub(crate) fn draw(seed: u64, focus: Option<Focus>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let random = &mut random;
        let run = one(random, &[Run::Sweep, Run::Sweep, Run::Watch, Run::Both]);
        let block_time = Duration::from_millis(one(random, &[1_000, 2_000, 2_000, 12_000]));
        let mut contracts = contracts(seed, random, run, focus);
        if focus.map_or(percent(random, 4), |focus| focus == Focus::OtherNumber) {
            contracts.number_off = random.random_range(100..20_000_000);
        }
        let number_is_off = contracts.number_off > 0;
        let profile = Profile::parse("field", &contracts.profile()).expect("a profile");
        let activity = Activity {
            changes: random.random_range(1..5),
            idle: random.random_range(0..70),
            noise: one(random, &[0, 20, 80]),
        };
        let history = match run {
            Run::Sweep => random.random_range(30..60),
            Run::Watch | Run::Both => random.random_range(30..300),
        };
        let blocks = if run == Run::Sweep { 1_000_000 } else { random.random_range(20..60) };
        let quiet = 8;
        let begin = history - random.random_range(1..history);
        let reorgs = match run {
            Run::Sweep => one(random, &[(0, 1), (30, 4)]),
            Run::Watch | Run::Both => {
                one(random, &[(0, 1), (60, 3), (60, 12), (30, 60), (20, 200)])
            }
        };
        let reorgs = match focus {
            Some(Focus::Reorgs(deepest)) => (60, deepest),
            Some(_) => (0, 1),
            None => reorgs,
        };
        let chain_random = StdRng::seed_from_u64(random.random());
        let mut summary = format!(
            "{run:?}, {} wallets ({} sick), {} reads, block time {block_time:?}, history {history} from {begin}, reorgs {reorgs:?}",
            contracts.wallets.len(),
            contracts.sick.len(),
            contracts.reads.len(),
        );
        let chain = Chain::new(seed, chain_random, contracts, activity, EPOCH, block_time, history);
        let field = Arc::new(Field::new(chain, 30_000));
        // While faults strike; then all is well.
        let end = match run {
            Run::Sweep => FOREVER,
            Run::Watch | Run::Both => block_time * u32::try_from(blocks).expect("few blocks"),
        };
        let method =
            one(random, &[MethodChoice::Multicall3, MethodChoice::Packed, MethodChoice::Auto]);
        let method = match method {
            // It tells a good answer by NUMBER: a mistake in the settings.
            MethodChoice::Packed if number_is_off => MethodChoice::Auto,
            method => method,
        };
        let chunk = match percent(random, 70) {
            true => ChunkLimit::Auto,
            false => ChunkLimit::AtMost(random.random_range(1..60).try_into().expect("not 0")),
        };
        let block = match run {
            Run::Sweep => one(
                random,
                &[
                    BlockChoice::Latest,
                    BlockChoice::Latest,
                    BlockChoice::Latest,
                    BlockChoice::Safe,
                    BlockChoice::Finalized,
                    BlockChoice::Number(history - 3),
                ],
            ),
            Run::Watch | Run::Both => BlockChoice::Latest,
        };
        let stop = (run == Run::Sweep && percent(random, 10))
            .then(|| Duration::from_millis(random.random_range(1..5_000)));
        write!(summary, ", {method:?} by {chunk}, at {block}, stop {stop:?}")
            .expect("a text takes all");
        let count = one(random, &[1, 1, 2, 3]);
        let count = focus.map_or(count, |focus| focus.endpoints(count));
        let is_calm = percent(random, 10) || focus.is_some();
        let mut characters: Vec<Character> =
            (0..count).map(|_| character(random, run, is_calm, method, end)).collect();
        if let Some(focus) = focus {
            for (index, character) in characters.iter_mut().enumerate() {
                focus.spoil(index, character, random, run, end);
            }
        }
        if number_is_off {
            // Nothing tells these from good answers there.
            let tells = |kind| matches!(kind, Kind::OlderBlock | Kind::Newest);
            for character in &mut characters {
                character.faults.retain(|fault| !tells(fault.kind));
            }
        }
        if run != Run::Sweep && method == MethodChoice::Packed {
            // A mistake in the settings otherwise, which no time mends.
            characters[0].overrides = Overrides::Takes;
        }
        for character in &characters {
            write!(summary, "\n  {}", shown(character)).expect("a text takes all");
        }
        let nodes = characters.into_iter().enumerate().map(|(index, character)| {
            let node_random = StdRng::seed_from_u64(random.random());
            Arc::new(Node::new(index, Arc::clone(&field), character, node_random))
        });
        let nodes = nodes.collect();
        let is_ill = focus.map_or(percent(random, 40), |focus| focus == Focus::Database);
        let illness = match is_ill && run != Run::Sweep {
            true => Illness {
                until: end,
                percent: one(random, &[0, 3, 15]),
                slowness: Duration::from_millis(one(random, &[20, 500, 3_000])),
            },
            false => Illness::default(),
        };
        write!(summary, "\n  database {illness:?}").expect("a text takes all");
        let database_random = StdRng::seed_from_u64(random.random());
        let database = Arc::new(Database::new(Arc::clone(&field), database_random, illness));
        Self {
            run,
            field,
            database,
            nodes,
            profile,
            method,
            block,
            stop,
            chunk,
            concurrency: one(random, &[1, 4, 4]),
            reorgs,
            block_time,
            begin,
            track: if percent(random, 60) { Track::Known } else { Track::All },
            blocks,
            quiet,
            seed,
            summary,
        }
    }

    /// A client of all endpoints, as a process makes one.
    pub(crate) fn client(&self, shutdown: &Shutdown) -> Arc<Client> {
        let urls = (0..self.nodes.len())
            .map(|index| format!("http://node{index}.test").parse().expect("a URL"))
            .collect();
        let settings = ClientSettings {
            urls,
            rates: RateLimits::default(),
            concurrency: self.concurrency,
            retries: RETRIES,
            timeout: Duration::from_secs(30),
            block: self.block,
            contracts: if self.run == Run::Sweep { Expected::OfTotals } else { Expected::OfEvents },
            max_head_age: Some(self.max_head_age()),
        };
        let field = Arc::clone(&self.field);
        let ambient = Ambient {
            transports: (self.nodes.iter())
                .map(|node| Arc::clone(node) as Arc<dyn Transport>)
                .collect(),
            seed: self.seed ^ self.field.now().as_nanos() as u64,
            clock: Arc::new(move || UNIX_EPOCH + Duration::from_secs(EPOCH) + field.now()),
        };
        Arc::new(Client::within(ambient, settings, &self.profile, shutdown.clone()))
    }

    /// How old a head may be.
    pub(crate) fn max_head_age(&self) -> Duration {
        self.block_time * 5 + Duration::from_secs(10)
    }

    /// A reader through this client.
    pub(crate) fn reader(&self, client: Arc<Client>, shutdown: &Shutdown) -> Arc<NodeReader> {
        let settings =
            ReaderSettings { block: BlockChoice::Latest, chunk: self.chunk, method: self.method };
        Arc::new(NodeReader::new(client, &self.profile, settings, shutdown.clone()))
    }

    /// How many requests at once.
    pub(crate) fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// All wallets.
    pub(crate) fn wallets(&self) -> Vec<Wallet> {
        self.field.chain().contracts.wallets.iter().copied().map(Wallet::from).collect()
    }

    /// When faults end.
    pub(crate) fn end(&self) -> Duration {
        self.block_time * u32::try_from(self.blocks).expect("few blocks")
    }

    /// Rows of most wallets as of the block where following begins, and a checkpoint there.
    pub(crate) fn fill(&self) {
        let mut random = StdRng::seed_from_u64(self.seed ^ 0x6669_6c6c);
        let chain = self.field.chain();
        let at = chain.ancestor(chain.head(), self.begin).expect("a block of the past");
        let mut tables = self.database.tables();
        for (index, wallet) in chain.contracts.wallets.iter().enumerate() {
            if percent(&mut random, 80) {
                let (total, read_block) = (chain.total(at, index), self.begin);
                let row = Row { total, read_block, event_block: None, written: Duration::ZERO };
                tables.rows.insert(Wallet::from(*wallet), row);
            }
        }
        tables.last_block = Some(self.begin);
    }

    /// The number of the newest block.
    pub(crate) fn head(&self) -> u64 {
        let chain = self.field.chain();
        chain.blocks[chain.head()].number
    }

    /// Makes blocks, and replaces some, until there are enough; then quiet ones.
    pub(crate) async fn mine(&self) {
        let mut random = StdRng::seed_from_u64(self.seed ^ 0x6d69_6e65);
        for made in 0..self.blocks + self.quiet {
            sleep(self.block_time).await;
            let now = self.field.now();
            let (often, deepest) = self.reorgs;
            let goes = made + 2 < self.blocks && random.random_range(0..1_000) < often;
            let depth = spread(&mut random, 1, deepest.max(1) + 1);
            let more = random.random_range(0..3);
            let mut chain = self.field.chain();
            let newest = chain.blocks[chain.head()].number;
            let depth = depth.min(deepest).min(newest - self.begin);
            let head = match goes {
                true => chain.reorganise(now, depth, more),
                false => chain.mine(now),
            };
            let told = chain.told(head);
            drop(chain);
            let what = if goes { format!("{depth} blocks replaced; ") } else { String::new() };
            self.field.tell(format!("{what}head {told}"));
        }
    }
}
