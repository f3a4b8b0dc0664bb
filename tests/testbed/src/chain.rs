//! A real chain for tests: Anvil with our contracts, the original Multicall3, and any number of wallets.
//!
//! By default it mines a block per transaction, accepts unsigned transactions from any sender, and gas is free. Methods
//! are named after what they do to a wallet. Anvil ends when its [`Chain`] is dropped, and when the process that
//! started it is killed.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256, Bytes, U64, U256};
use alloy::providers::{Provider, RootProvider};
use alloy::rpc::client::{BatchRequest, RpcClient};
use alloy::rpc::json_rpc::RpcRecv;
use alloy::rpc::types::TransactionRequest;
use alloy::sol_types::SolCall;
use alloy::transports::http::{Http, reqwest};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::contracts::{
    AUDIO, Artifact, DELEGATE_MANAGER, STAKING, audio, delegate_manager, mapping_slot, staking,
};
use crate::genesis::{Genesis, Holding};

/// Time limit for Anvil's start. A million wallets take about ten seconds on two idle cores.
const START_TIMEOUT: Duration = Duration::from_secs(300);
/// Time limit for mining a transaction.
const MINE_TIMEOUT: Duration = Duration::from_secs(60);
/// Gas limit of a transfer, by which Anvil decides whether a block has room. A transfer uses 56,000 gas if the receiver
/// had nothing, else 39,000.
const TRANSFER_GAS: u64 = 60_000;
/// Transfers per request; Anvil accepts up to 2 MB.
const TRANSFERS_PER_REQUEST: usize = 1_000;
/// Storage slots per request that sets them.
const SLOTS_PER_REQUEST: usize = 4_000;

/// How `balanceOf` fails for a wallet, on a chain built [`faulty`](Builder::faulty).
/// Mirrors the enum of `contracts/FaultyToken.sol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TokenFault {
    /// No fault.
    None = 0,
    /// The call reverts with a reason.
    Revert = 1,
    /// The call consumes all gas it was given. Inside Multicall3 that leaves 1/64 to the calls after it.
    BurnGas = 2,
    /// The call succeeds and returns nothing.
    Return0 = 3,
    /// The call succeeds and returns the first 31 bytes of the balance.
    Return31 = 4,
    /// The call succeeds and returns the balance and 32 bytes more.
    Return64 = 5,
    /// The call succeeds and returns 2^256 - 1, to which no stake can be added.
    ReturnMax = 6,
}

/// Configures a chain; made by [`Chain::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    genesis: Genesis,
    arguments: Vec<String>,
}

impl Builder {
    /// How many of the wallets of [`crate::wallet`] hold something, rounded up to whole thousands (default 1,000).
    pub fn wallets(mut self, count: u64) -> Self {
        self.genesis.wallets = count;
        self
    }

    /// Uses the token that supports [`Chain::set_fault`].
    pub fn faulty(mut self) -> Self {
        self.genesis.faulty = true;
        self
    }

    /// The chain id (default 1, mainnet's).
    pub fn chain_id(mut self, id: u64) -> Self {
        self.genesis.chain_id = id;
        self
    }

    /// Gas limit of a block, and of an `eth_call` (default 60,000,000).
    pub fn gas_limit(mut self, gas: u64) -> Self {
        self.genesis.gas_limit = gas;
        self
    }

    /// How old the first block is (default: it is made now).
    pub fn age(mut self, age: Duration) -> Self {
        self.genesis.age = age;
        self
    }

    /// Adds an argument to Anvil's command line.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts Anvil on a free port and waits until it answers.
    pub async fn start(self) -> Result<Chain> {
        let folder = tempfile::Builder::new().prefix("ethtally-chain-").tempdir()?;
        let genesis_file = folder.path().join("genesis.json");
        let (genesis, path) = (self.genesis, genesis_file.clone());
        tokio::task::spawn_blocking(move || -> Result<()> {
            let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
            genesis.write(&mut out)?;
            Ok(out.flush()?)
        })
        .await?
        .context("writing genesis.json")?;

        let mut command = Command::new(find_anvil()?);
        command
            .args(["--host", "127.0.0.1", "--port", "0", "--color", "never"])
            .arg("--init")
            .arg(&genesis_file)
            .args(["--chain-id", &genesis.chain_id.to_string()])
            .args(["--gas-limit", &genesis.gas_limit.to_string()])
            .args([
                "--gas-price",
                "0",
                "--block-base-fee-per-gas",
                "0",
                "--disable-min-priority-fee",
            ])
            // Any sender, in order of arrival, and no files in the user's home.
            .args(["--auto-impersonate", "--order", "fifo", "--cache-path"])
            .arg(folder.path().join("cache"))
            .args(&self.arguments);
        let anvil = Anvil::start(command, folder).await?;
        // Anvil has read it, and it may be large.
        fs::remove_file(&genesis_file)?;

        let chain = Chain { provider: local_provider(anvil.port)?, anvil };
        // Otherwise every request adds a line to Anvil's log file.
        let _: Value = chain.request("anvil_setLoggingEnabled", json!([false])).await?;
        Ok(chain)
    }
}

/// A running chain. Anvil ends when this is dropped.
#[derive(Debug)]
pub struct Chain {
    provider: RootProvider,
    anvil: Anvil,
}

impl Chain {
    /// Returns a builder with the defaults.
    pub fn builder() -> Builder {
        let genesis = Genesis {
            wallets: 1_000,
            faulty: false,
            chain_id: 1,
            gas_limit: 60_000_000,
            age: Duration::ZERO,
        };
        Builder { genesis, arguments: Vec::new() }
    }

    /// The chain's HTTP URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.anvil.port)
    }

    /// The chain's WebSocket URL.
    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.anvil.port)
    }

    /// The provider, for anything this type has no method for.
    pub fn provider(&self) -> &RootProvider {
        &self.provider
    }

    /// The number of the newest block.
    pub async fn block_number(&self) -> Result<u64> {
        Ok(self.provider.get_block_number().await?)
    }

    /// The header of a block, as JSON-RPC has it.
    pub async fn header(&self, number: u64) -> Result<Value> {
        self.request("eth_getBlockByNumber", json!([format!("{number:#x}"), false])).await
    }

    /// Mines `blocks` blocks; the first includes the pending transactions.
    pub async fn mine(&self, blocks: u64) -> Result<()> {
        let _: Value = self.request("anvil_mine", json!([blocks])).await?;
        Ok(())
    }

    /// Mines `blocks` blocks whose times are this number of seconds apart.
    pub async fn mine_every(&self, blocks: u64, seconds: u64) -> Result<()> {
        let _: Value = self.request("anvil_mine", json!([blocks, seconds])).await?;
        Ok(())
    }

    /// Whether each transaction gets a block at once, which is the default. When off, transactions stay pending until
    /// [`Chain::mine`], and the methods that send them do not wait.
    pub async fn set_automine(&self, on: bool) -> Result<()> {
        let _: Value = self.request("evm_setAutomine", json!([on])).await?;
        Ok(())
    }

    /// Mines a block every `seconds` instead of one per transaction. Zero stops that; transactions then stay pending until
    /// [`set_automine(true)`](Chain::set_automine).
    pub async fn set_interval_mining(&self, seconds: u64) -> Result<()> {
        let _: Value = self.request("evm_setIntervalMining", json!([seconds])).await?;
        Ok(())
    }

    /// The logs of all contracts in these blocks, both ends included, as `eth_getLogs` returns them.
    pub async fn logs(&self, from: u64, to: u64) -> Result<Vec<Value>> {
        let range = json!({ "fromBlock": format!("{from:#x}"), "toBlock": format!("{to:#x}") });
        self.request("eth_getLogs", json!([range])).await
    }

    /// Replaces the newest `depth` blocks with as many empty ones, which undoes their changes.
    pub async fn reorg(&self, depth: u64) -> Result<()> {
        let _: Value = self.request("anvil_reorg", json!([depth, []])).await?;
        Ok(())
    }

    /// Takes a snapshot of the state, for [`Chain::revert`].
    pub async fn snapshot(&self) -> Result<U256> {
        self.request("evm_snapshot", json!([])).await
    }

    /// Reverts to a snapshot, which can be used only once.
    pub async fn revert(&self, snapshot: U256) -> Result<()> {
        let reverted: bool = self.request("evm_revert", json!([snapshot])).await?;
        ensure!(reverted, "there is no snapshot {snapshot}");
        Ok(())
    }

    /// A wallet's total at the newest block, by three `eth_call`s, without Multicall3.
    pub async fn total(&self, wallet: Address) -> Result<U256> {
        self.total_at(wallet, self.block_number().await?).await
    }

    /// A wallet's total at a block.
    pub async fn total_at(&self, wallet: Address, block: u64) -> Result<U256> {
        Ok(self.holding_at(wallet, block).await?.total())
    }

    /// The three parts of a wallet's total at a block.
    pub async fn holding_at(&self, wallet: Address, block: u64) -> Result<Holding> {
        Ok(Holding {
            balance: self.read(AUDIO, &audio::balanceOfCall { account: wallet }, block).await?,
            staked: self
                .read(STAKING, &staking::totalStakedForCall { account: wallet }, block)
                .await?,
            delegated: self
                .read(
                    DELEGATE_MANAGER,
                    &delegate_manager::getTotalDelegatorStakeCall { delegator: wallet },
                    block,
                )
                .await?,
        })
    }

    /// Transfers tokens from one wallet to another. Event: Transfer.
    pub async fn transfer(&self, from: Address, to: Address, amount: U256) -> Result<B256> {
        let hash = self
            .provider
            .raw_request("eth_sendTransaction".into(), [transfer(from, to, amount)])
            .await?;
        self.mined(hash).await
    }

    /// Submits many transfers without waiting for them or checking that they succeed.
    /// To get all of them into one block: [`set_automine(false)`](Chain::set_automine), this, and [`Chain::mine`].
    /// A block of 60,000,000 gas holds a thousand.
    pub async fn send(&self, transfers: &[(Address, Address, U256)]) -> Result<()> {
        // Anvil processes a batch concurrently, and would give two transactions of one sender the same nonce.
        let mut nonces = self.nonces(transfers.iter().map(|transfer| transfer.0)).await?;
        for transfers in transfers.chunks(TRANSFERS_PER_REQUEST) {
            let mut batch = BatchRequest::new(self.provider.client());
            let mut hashes = Vec::with_capacity(transfers.len());
            for &(from, to, amount) in transfers {
                let nonce = nonces.get_mut(&from).context("a sender without a nonce")?;
                let request = transfer(from, to, amount).nonce(*nonce);
                *nonce += 1;
                hashes.push(batch.add_call::<_, B256>("eth_sendTransaction", &[request])?);
            }
            batch.send().await?;
            for hash in hashes {
                hash.await?;
            }
        }
        Ok(())
    }

    /// The next nonce of each sender, after its pending transactions.
    async fn nonces(
        &self,
        senders: impl Iterator<Item = Address>,
    ) -> Result<HashMap<Address, u64>> {
        let senders: Vec<Address> = senders.collect::<HashSet<_>>().into_iter().collect();
        let mut nonces = HashMap::new();
        for senders in senders.chunks(TRANSFERS_PER_REQUEST) {
            let mut batch = BatchRequest::new(self.provider.client());
            let mut waiters = Vec::with_capacity(senders.len());
            for sender in senders {
                let parameters = (sender, "pending");
                waiters.push(batch.add_call::<_, U64>("eth_getTransactionCount", &parameters)?);
            }
            batch.send().await?;
            for (&sender, waiter) in senders.iter().zip(waiters) {
                nonces.insert(sender, waiter.await?.to());
            }
        }
        Ok(nonces)
    }

    /// Sets the balances of wallets in the state of the newest block, without transactions and events.
    pub async fn set_balances(&self, balances: &[(Address, U256)]) -> Result<()> {
        let slot = Artifact::token()?.slot("balances")?;
        for balances in balances.chunks(SLOTS_PER_REQUEST) {
            let mut batch = BatchRequest::new(self.provider.client());
            let mut waiters = Vec::with_capacity(balances.len());
            for &(wallet, balance) in balances {
                let parameters = (AUDIO, mapping_slot(wallet, slot), B256::from(balance));
                waiters.push(batch.add_call::<_, bool>("anvil_setStorageAt", &parameters)?);
            }
            batch.send().await?;
            for waiter in waiters {
                waiter.await?;
            }
        }
        Ok(())
    }

    /// Mints tokens for a wallet. Event: Transfer.
    pub async fn mint(&self, to: Address, amount: U256) -> Result<B256> {
        self.transact(AUDIO, &audio::mintCall { to, amount }).await
    }

    /// Stakes a user's own tokens; the total does not change. Events: Transfer from the user, Staked.
    pub async fn stake(&self, user: Address, amount: U256) -> Result<B256> {
        self.transact(STAKING, &staking::stakeForCall { account: user, amount }).await
    }

    /// Stakes new tokens for a user, whose total grows. Events: Staked, and a Transfer that does not name the user.
    pub async fn reward(&self, user: Address, amount: U256) -> Result<B256> {
        self.transact(STAKING, &staking::stakeRewardsCall { account: user, amount }).await
    }

    /// Returns staked tokens to the user; the total does not change. Events: Transfer to the user, Unstaked.
    pub async fn unstake(&self, user: Address, amount: U256) -> Result<B256> {
        self.transact(STAKING, &staking::unstakeForCall { account: user, amount }).await
    }

    /// Burns part of a user's stake; the total shrinks. Its delegators' totals do not change, as Staking does not know them.
    /// Events: Slashed, and a Transfer that does not name the user.
    pub async fn slash_stake(&self, user: Address, amount: U256) -> Result<B256> {
        self.transact(STAKING, &staking::slashCall { account: user, amount }).await
    }

    /// Delegates a wallet's own tokens: its total does not change, the provider's grows.
    /// Events: Transfer from the delegator, Staked of the provider, IncreaseDelegatedStake.
    pub async fn delegate(
        &self,
        delegator: Address,
        provider: Address,
        amount: U256,
    ) -> Result<B256> {
        let call = delegate_manager::delegateStakeCall { delegator, provider, amount };
        self.transact(DELEGATE_MANAGER, &call).await
    }

    /// Takes delegated tokens back: the delegator's total does not change, the provider's shrinks.
    /// Events: Transfer to the delegator, Unstaked of the provider, UndelegateStakeRequestEvaluated.
    pub async fn undelegate(
        &self,
        delegator: Address,
        provider: Address,
        amount: U256,
    ) -> Result<B256> {
        let call = delegate_manager::undelegateStakeCall { delegator, provider, amount };
        self.transact(DELEGATE_MANAGER, &call).await
    }

    /// The provider returns everything to a delegator; totals change as by [`Chain::undelegate`].
    /// Events: Transfer to the delegator, Unstaked of the provider, RemoveDelegatorRequestEvaluated.
    pub async fn remove_delegator(&self, provider: Address, delegator: Address) -> Result<B256> {
        self.transact(
            DELEGATE_MANAGER,
            &delegate_manager::removeDelegatorCall { provider, delegator },
        )
        .await
    }

    /// Stakes new tokens for a provider: its total grows by all of them, its delegators' totals by their share.
    /// Events: Staked of the provider, Claim, and a Transfer that names neither. No event names a delegator.
    pub async fn claim(&self, claimer: Address, rewards: U256) -> Result<B256> {
        self.transact(DELEGATE_MANAGER, &delegate_manager::claimRewardsCall { claimer, rewards })
            .await
    }

    /// Burns part of a provider's stake: its total shrinks by all of it, its delegators' totals by their share.
    /// Events: Slashed of the provider, Slash, and a Transfer that names neither. No event names a delegator.
    pub async fn slash(&self, target: Address, amount: U256) -> Result<B256> {
        self.transact(DELEGATE_MANAGER, &delegate_manager::slashCall { target, amount }).await
    }

    /// Makes `balanceOf` of a wallet fail from now on. Needs a chain built [`faulty`](Builder::faulty).
    pub async fn set_fault(&self, wallet: Address, fault: TokenFault) -> Result<B256> {
        self.transact(AUDIO, &audio::setFaultCall { account: wallet, fault: fault as u8 })
            .await
            .context("set_fault needs a chain that was built faulty()")
    }

    async fn request<T: RpcRecv>(&self, method: &'static str, parameters: Value) -> Result<T> {
        self.provider
            .raw_request(method.into(), parameters)
            .await
            .with_context(|| format!("{method} failed"))
    }

    async fn read(&self, contract: Address, call: &impl SolCall, block: u64) -> Result<U256> {
        let request = TransactionRequest::default().to(contract).input(call.abi_encode().into());
        let data = self.provider.call(request).block(BlockId::number(block)).await?;
        ensure!(data.len() == 32, "{} bytes instead of a number from {contract}", data.len());
        Ok(U256::from_be_slice(&data))
    }

    /// Sends a transaction; anyone may call the contracts, so the sender does not matter.
    async fn transact(&self, contract: Address, call: &impl SolCall) -> Result<B256> {
        let gas = self
            .provider
            .get_block_by_number(Default::default())
            .await?
            .context("no block")?
            .header
            .gas_limit;
        let request = transaction(Address::repeat_byte(0xee), contract, call, gas);
        let hash = self.provider.raw_request("eth_sendTransaction".into(), [request]).await?;
        self.mined(hash).await
    }

    /// Waits until a transaction is mined, if the chain mines by itself; fails if the transaction reverted.
    async fn mined(&self, hash: B256) -> Result<B256> {
        let automine: bool = self.request("anvil_getAutomine", json!([])).await?;
        let interval: Option<u64> = self.request("anvil_getIntervalMining", json!([])).await?;
        if !automine && interval.is_none() {
            return Ok(hash);
        }
        let deadline = Instant::now() + MINE_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(receipt) = self.provider.get_transaction_receipt(hash).await? {
                ensure!(receipt.status(), "the transaction {hash} was reverted");
                return Ok(hash);
            }
            sleep(Duration::from_millis(2)).await;
        }
        bail!("the transaction {hash} was not mined within {MINE_TIMEOUT:?}");
    }
}

fn transfer(from: Address, to: Address, amount: U256) -> TransactionRequest {
    transaction(from, AUDIO, &audio::transferCall { to, amount }, TRANSFER_GAS)
}

fn transaction(from: Address, to: Address, call: &impl SolCall, gas: u64) -> TransactionRequest {
    let input: Bytes = call.abi_encode().into();
    TransactionRequest { gas: Some(gas), gas_price: Some(0), ..TransactionRequest::default() }
        .from(from)
        .to(to)
        .input(input.into())
}

/// A provider that ignores the environment's proxy settings and keeps no connections open: these would belong to the
/// runtime of one test, and a chain may serve many.
fn local_provider(port: u16) -> Result<RootProvider> {
    // reqwest needs a TLS provider even for plain HTTP. An error means that one is already installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build()?;
    let transport = Http::with_client(client, format!("http://127.0.0.1:{port}").parse()?);
    Ok(RootProvider::new(RpcClient::new(transport, true)))
}

/// The Anvil process, its watchdog and its files.
#[derive(Debug)]
struct Anvil {
    process: Child,
    /// Kills Anvil and removes its files when its stdin closes, that is when this process ends without dropping.
    watchdog: Option<Child>,
    port: u16,
    _folder: TempDir,
}

impl Anvil {
    async fn start(mut command: Command, folder: TempDir) -> Result<Self> {
        let log = folder.path().join("anvil.log");
        let output = File::create(&log)?;
        let process = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C must not reach these two: when it ends the tests, the watchdog cleans up.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let watchdog = Command::new("sh")
            .args(["-c", r#"read -r _; kill -9 "$1"; rm -rf "$2""#, "watchdog"])
            .arg(process.id().to_string())
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .ok(); // works without a shell too
        let mut anvil = Self { process, watchdog, port: 0, _folder: folder };
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let said = fs::read_to_string(&log)?;
            if let Some(port) = listening_port(&said) {
                anvil.port = port;
                return Ok(anvil);
            }
            if let Some(status) = anvil.process.try_wait()? {
                bail!("Anvil ended ({status}) instead of starting; it said:\n{said}");
            }
            if Instant::now() > deadline {
                bail!("Anvil did not start within {START_TIMEOUT:?}; it said:\n{said}");
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        // The watchdog first: once Anvil has ended, its process id may be reused.
        for process in self.watchdog.iter_mut().chain([&mut self.process]) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The port from Anvil's last line before it serves: `Listening on 127.0.0.1:34563`.
fn listening_port(said: &str) -> Option<u16> {
    let (_, rest) = said.rsplit_once("Listening on ")?;
    let (address, _) = rest.split_once('\n')?;
    address.rsplit_once(':')?.1.trim().parse().ok()
}

/// `$ANVIL`, or the one that `install-anvil` installed, or the one on the `PATH`.
fn find_anvil() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ANVIL") {
        return Ok(path.into());
    }
    let packages =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/testbed/node_modules/@foundry-rs");
    let installed = fs::read_dir(packages)
        .into_iter()
        .flatten()
        .flatten()
        .map(|package| package.path().join("bin/anvil"));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&on_path).map(|folder| folder.join("anvil"));
    installed
        .chain(on_path)
        .find(|path| path.is_file())
        .context("Anvil is not installed: run tests/testbed/install-anvil, or name one in $ANVIL")
}

#[cfg(test)]
mod tests;
