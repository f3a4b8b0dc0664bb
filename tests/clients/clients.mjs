// How each client is started, and how its chain gets the next block.
import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { Rpc, sleep } from './rpc.mjs';

const CACHE = new URL('../../target/clients/', import.meta.url).pathname;

/** The account that sends everything: Hardhat's first, whose key is public. */
export const KEY = '0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80';
const ACCOUNT = '0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266';
const ETHER_10000 = '0x21e19e0c9bab2400000';

/** Each starts its client in the folder `work` and returns the running `Client`. */
export const CLIENTS = {
    hardhat2: (work) => startHardhat('hardhat2', 'cjs', 'module.exports = { solidity: "0.8.28" };', work),
    hardhat3: (work) => startHardhat('hardhat3', 'mjs', 'export default {};', work),
    ganache: startGanache,
    ethereumjs: startEthereumjs,
};

/** A running client. `next` makes the block with the transactions that were sent. */
class Client {
    /** Whether it has `eth_subscribe`; without it `watch` polls whatever its `--ws-url`. */
    subscribes = true;

    constructor(folder, title, child, port, wsPort, next) {
        const name = folder === 'ethereumjs' ? '@ethereumjs/client' : title;
        const manifest = readFileSync(`${CACHE}${folder}/node_modules/${name}/package.json`, 'utf8');
        this.title = title;
        this.version = JSON.parse(manifest).version;
        this.http = `http://127.0.0.1:${port}`;
        this.ws = `ws://127.0.0.1:${wsPort}`;
        this.rpc = new Rpc(this.http);
        this.child = child;
        this.next = next;
    }

    async ready() {
        for (let tries = 0; this.child.exitCode === null && tries < 600; tries++) {
            if (await this.rpc.call('eth_chainId').catch(() => null)) return this;
            await sleep(100);
        }
        throw new Error(`${this.title} does not start: see its log in target/clients/work`);
    }

    stop() {
        this.child.kill('SIGKILL');
    }
}

async function startHardhat(folder, extension, text, work) {
    const file = `hardhat.config.${extension}`;
    const port = await freePort();
    writeFileSync(`${CACHE}${folder}/${file}`, text);
    const child = start(folder, 'hardhat', work, [
        '--config', file, 'node', '--hostname', '127.0.0.1', '--port', port,
    ]);
    // Every transaction is mined when it is sent.
    return new Client(folder, 'hardhat', child, port, port, async () => {}).ready();
}

async function startGanache(work) {
    const port = await freePort();
    const child = start('ganache', 'ganache', work, [
        '--server.host', '127.0.0.1', '--server.port', port, '--wallet.accounts', `${KEY},${ETHER_10000}`,
    ]);
    return new Client('ganache', 'ganache', child, port, port, async () => {}).ready();
}

// EthereumJS mines only chains from before the merge. On newer ones it makes blocks for a consensus client, which
// this is: Cancun, as the contracts need.
async function startEthereumjs(work) {
    const [port, wsPort, enginePort, engineWsPort, p2pPort] = await Promise.all([1, 2, 3, 4, 5].map(freePort));
    const forks = ['homestead', 'eip150', 'eip155', 'eip158', 'byzantium', 'constantinople', 'petersburg', 'istanbul',
        'berlin', 'london', 'mergeFork'].map((fork) => [`${fork}Block`, 0]);
    const genesis = {
        config: { chainId: 1337, ...Object.fromEntries(forks), shanghaiTime: 0, cancunTime: 0,
            terminalTotalDifficulty: 0, terminalTotalDifficultyPassed: true },
        nonce: '0x0', difficulty: '0x0', gasLimit: '0x1c9c380', baseFeePerGas: '0x7', excessBlobGas: '0x0',
        timestamp: `0x${now().toString(16)}`, extraData: '0x', alloc: { [ACCOUNT.slice(2)]: { balance: ETHER_10000 } },
    };
    writeFileSync(`${work}/genesis.json`, JSON.stringify(genesis));
    const child = start('ethereumjs', 'ethereumjs', work, [
        '--gethGenesis', `${work}/genesis.json`, '--dataDir', `${work}/data`, '--logFile', 'false',
        '--sync', 'none', '--isSingleNode', '--port', p2pPort, '--discDns', 'false', '--discV4', 'false',
        '--rpc', '--rpcAddr', '127.0.0.1', '--rpcPort', port, '--ws', '--wsAddr', '127.0.0.1', '--wsPort', wsPort,
        '--rpcEngine', '--rpcEngineAuth', 'false', '--rpcEngineAddr', '127.0.0.1', '--rpcEnginePort', enginePort,
        '--wsEngineAddr', '127.0.0.1', '--wsEnginePort', engineWsPort,
    ]);
    const engine = new Rpc(`http://127.0.0.1:${enginePort}`);
    const client = new Client('ethereumjs', 'ethereumjs', child, port, wsPort, () => nextBlock(client.rpc, engine));
    client.subscribes = false;
    return client.ready();
}

/** Makes a block through the engine API, as a consensus client does. */
async function nextBlock(rpc, engine) {
    const zero = `0x${'0'.repeat(64)}`;
    const choose = (hash, attributes) => engine.call('engine_forkchoiceUpdatedV3', [
        { headBlockHash: hash, safeBlockHash: zero, finalizedBlockHash: zero }, attributes,
    ]);
    const head = await rpc.call('eth_getBlockByNumber', ['latest', false]);
    const timestamp = Math.max(now(), Number(head.timestamp) + 1);
    const { payloadId } = await choose(head.hash, {
        timestamp: `0x${timestamp.toString(16)}`, prevRandao: zero, suggestedFeeRecipient: ACCOUNT, withdrawals: [],
        parentBeaconBlockRoot: zero,
    });
    const { executionPayload } = await engine.call('engine_getPayloadV3', [payloadId]);
    const { status } = await engine.call('engine_newPayloadV3', [executionPayload, [], zero]);
    if (status !== 'VALID') throw new Error(`ethereumjs calls its own block ${status}`);
    await choose(executionPayload.blockHash, null);
}

/** Starts a program of an installed package; what it prints is in `work`/client.log. */
function start(folder, program, work, args) {
    mkdirSync(work, { recursive: true });
    const log = openSync(`${work}/client.log`, 'w');
    const child = spawn(process.execPath, [`${CACHE}${folder}/node_modules/.bin/${program}`, ...args.map(String)], {
        cwd: `${CACHE}${folder}`,
        stdio: ['ignore', log, log],
        env: { ...process.env, HARDHAT_DISABLE_TELEMETRY_PROMPT: 'true', CI: 'true' },
    });
    closeSync(log);
    return child;
}

function freePort() {
    return new Promise((resolve) => {
        const server = createServer().listen(0, '127.0.0.1', () => {
            const { port } = server.address();
            server.close(() => resolve(port));
        });
    });
}

function now() {
    return Math.floor(Date.now() / 1000);
}
