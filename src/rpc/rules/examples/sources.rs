//! Where what nodes and providers say is from.

use crate::rpc::kind::ErrorKind;

/// HTTP status, 200 for none; code, 0 for none; message; kind; where it is from.
pub(in crate::rpc::rules) type Example = (u16, i64, &'static str, ErrorKind, &'static str);

pub(super) const GETH: &str =
    "go-ethereum: internal/ethapi, eth/filters, eth/api_backend.go, core/vm/errors.go";
pub(super) const GETH_RPC: &str = "go-ethereum: rpc/types.go, rpc/json.go, rpc/errors.go";
pub(super) const GETH_PATH: &str =
    "go-ethereum: triedb/pathdb/reader.go, core/state/database_history.go";
pub(super) const RETH: &str = "reth: crates/rpc/rpc-eth-types/src/error/mod.rs, logs_utils.rs";
pub(super) const NETHERMIND: &str =
    "Nethermind: JsonRpc/Modules/Eth/EthRpcModule.cs, Trie/MissingTrieNodeException.cs";
pub(super) const ERIGON: &str =
    "Erigon: db/state/history_reader_v3.go, rpc/rpchelper, turbo/jsonrpc";
pub(super) const BESU: &str = "Besu: jsonrpc/internal/response/RpcErrorType.java";
pub(super) const OPEN_ETHEREUM: &str = "OpenEthereum: rpc/src/v1/helpers/errors.rs";
pub(super) const ANVIL: &str =
    "Foundry: crates/anvil/src/eth/error.rs, crates/anvil/rpc/src/error.rs";
pub(super) const HARDHAT: &str =
    "Hardhat: edr_provider/src/error.rs; internal/hardhat-network/provider/modules/eth.ts";
pub(super) const GANACHE: &str = "Ganache: packages/ethereum/utils/src/errors, rpc-tests";
pub(super) const ETHEREUM_JS: &str =
    "EthereumJS: packages/client/lib/rpc/helpers.ts, validation.ts";
pub(super) const COREETH: &str = "coreth: eth/api_backend.go, internal/ethapi";
pub(super) const ALCHEMY: &str = "https://docs.alchemy.com/reference/error-reference";
pub(super) const INFURA: &str =
    "https://docs.infura.io/api/networks/ethereum/json-rpc-methods/error-codes";
pub(super) const QUICKNODE: &str = "https://www.quicknode.com/docs/ethereum/error-references";
pub(super) const CHAINSTACK: &str =
    "Chainstack, from ponder: getLogsRetryHelper.ts and dank_mids: types";
pub(super) const CLOUDFLARE: &str =
    "https://developers.cloudflare.com/web3/ethereum-gateway; ponder: getLogsRetryHelper.ts";
pub(super) const PUBLICNODE: &str =
    "PublicNode: answers with HTTP 403 and -32602 for older blocks, by several reports of 2026";
pub(super) const PROXYD: &str = "ethereum-optimism/infra: proxyd/backend.go, rewriter.go";
pub(super) const ERPC: &str = "erpc/erpc: architecture/evm/error_normalizer.go, thirdparty/*.go";
pub(super) const PONDER: &str = "ponder-sh/ponder: packages/utils/src/getLogsRetryHelper.ts";
pub(super) const DRPC: &str =
    "dRPC: drpcorg/nodecore: internal/protocol/errors.go, evm_bounds; drpcorg/dshackle";
pub(super) const JSONRPSEE: &str = "paritytech/jsonrpsee: types/src/error.rs";
pub(super) const MONAD: &str = "category-labs/monad-bft: monad-rpc/src/handlers/eth/call.rs";
pub(super) const SEEN: &str = "public reports of users, collected for this project";
pub(super) const HTTP: &str = "RFC 9110; gateways";
pub(super) const OURS: &str = "made up, for the order of the rules";
pub(super) const LIKE: &str = "made up, in the manner of the others";
