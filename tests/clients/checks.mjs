// What each command must do. A check throws what went wrong, in one line.
import { writeFileSync } from 'node:fs';
import { Program } from './program.mjs';
import { sleep } from './rpc.mjs';

// Wallets by number. One reverts from the start and never gets a row; the other one has a row when it begins to.
const NEVER_READ = 7;
const REVERTS_LATER = 8;
const SPOILT = 20;
const BLOCKS_WATCHED = 6;
// Nobody listens there, so `watch` polls.
const NO_SOCKET = 'ws://127.0.0.1:9';

/** Calls `report(command, error)` for each command; `error` is null if all is right. */
export async function checkReader(client, chain, reader, work, report) {
    const program = new Program(client, chain, reader, work);
    await chain.setReverting(NEVER_READ, true);
    await chain.setReverting(REVERTS_LATER, false);
    if (reader === 'packed' && !(await chain.takesOverrides())) {
        return report('every command', await wrong(() => refusesPacked(program, chain, work)));
    }
    const checks = { backfill, refresh, sweep, 'verify ADDR': verify, 'verify --sample': sample };
    for (const [command, check] of Object.entries(checks)) {
        report(command, await wrong(() => check(program, chain, work)));
    }
    const via = client.subscribes ? 'websocket' : 'http';
    report('watch, WebSocket', await wrong(() => watch(program, chain, client.ws, via)));
    report('watch, polling', await wrong(() => watch(program, chain, NO_SOCKET, 'http')));
}

async function wrong(check) {
    try {
        await check();
        return null;
    } catch (error) {
        return error.message;
    }
}

/** Without state overrides the packed reader ends with 2 and says why. */
async function refusesPacked(program, chain, work) {
    const run = await program.run('backfill', '--from-csv', csv(chain, work));
    expect(run, 2, {});
    if (!/override/.test(run.json.error)) throw new Error(`does not name state overrides: ${run.json.error}`);
}

async function backfill(program, chain, work) {
    const run = await program.run('backfill', '--from-csv', csv(chain, work));
    const wallets = chain.wallets.length;
    expect(run, 0, { wallets, updated: wallets - 1, failed: 1 });
    await sameTotals(program, chain, [NEVER_READ]);
}

async function refresh(program, chain) {
    await chain.transfer(1, 2, 5n);
    const [from, to, reverting] = [1, 2, NEVER_READ].map((n) => chain.wallets[n]);
    const run = await program.run('refresh', from, to, reverting);
    expect(run, 0, { requested: 3, updated: 2, failed: 1 });
    for (const { wallet, total } of run.json.wallets) {
        const right = await chain.total(wallet);
        if (total !== (right === null ? null : `${right}`)) throw new Error(`${wallet}: prints ${total}, not ${right}`);
    }
    await sameTotals(program, chain, [NEVER_READ]);
}

async function sweep(program, chain) {
    await chain.transfer(3, 4, 6n);
    await chain.setReverting(REVERTS_LATER, true);
    const run = await program.run('sweep', '--all');
    expect(run, 0, { updated: chain.wallets.length - 2, failed: 1 });
    await sameTotals(program, chain, [NEVER_READ, REVERTS_LATER]);
}

async function verify(program, chain) {
    const wallet = chain.wallets[SPOILT];
    expect(await program.run('verify', wallet), 0, { in_sync: true, stored_total: `${await chain.total(wallet)}` });
    program.spoil(wallet);
    expect(await program.run('verify', wallet), 1, { in_sync: false, stored_total: '7' });
    expect(await program.run('verify', wallet, '--fix'), 1, { in_sync: false });
    expect(await program.run('verify', wallet), 0, { in_sync: true });
    await sameTotals(program, chain, [NEVER_READ, REVERTS_LATER]);
}

/** Every row is in the sample: one is spoilt, two have moved, one cannot be read. */
async function sample(program, chain) {
    const rows = `${chain.wallets.length - 1}`;
    expect(await program.run('verify', '--sample', rows), 0, { drifted: 0, unreadable: 1, unchecked: 0 });
    await chain.transfer(5, 6, 7n);
    program.spoil(chain.wallets[SPOILT]);
    expect(await program.run('verify', '--sample', rows), 1, { drifted: 3, moved: 2, wrong: 1, unreadable: 1 });
    expect(await program.run('verify', '--sample', rows, '--fix'), 1, { drifted: 3, unreadable: 1 });
    expect(await program.run('verify', '--sample', rows), 0, { drifted: 0, unreadable: 1, unchecked: 0 });
    await sameTotals(program, chain, [NEVER_READ, REVERTS_LATER]);
}

/** Follows blocks with two transfers each, one of them of a wallet that reverts. */
async function watch(program, chain, url, via) {
    const watching = program.watch('--ws-url', url);
    try {
        const connected = () => watching.events.some((event) => event.via === via);
        await until(30_000, `is not connected by ${via}`, watching, connected);
        const first = await chain.head();
        for (let block = 0; block < BLOCKS_WATCHED; block++) {
            await chain.transfer(10 + block, 30 + block, 1n + BigInt(block));
            await chain.transfer(40 + block, REVERTS_LATER, 1n);
            await sleep(500);
        }
        const last = await chain.head();
        const stored = () => checkpoint(program) >= last;
        await until(30_000, `has not stored block ${last} of ${first}–${last}`, watching, stored);
    } catch (error) {
        throw new Error(`${error.message}; its last events: ${JSON.stringify(watching.events.slice(-3))}`);
    } finally {
        watching.child.kill('SIGTERM');
    }
    const status = await Promise.race([watching.ended, sleep(20_000).then(() => 'none 20 s after SIGTERM')]);
    watching.child.kill('SIGKILL');
    if (status !== 143) throw new Error(`exit status ${status}, not 143: ${lastWords(await watching.stderr)}`);
    const errors = watching.events.filter(({ event }) => event === 'error');
    if (errors.length > 0) throw new Error(`errors: ${JSON.stringify(errors)}`);
    await sameTotals(program, chain, [NEVER_READ, REVERTS_LATER]);
}

function checkpoint(program) {
    return program.query((database) => {
        return database.prepare('select last_block from eth_indexer_checkpoints').get()?.last_block ?? -1;
    });
}

function csv(chain, work) {
    const path = `${work}/wallets.csv`;
    writeFileSync(path, `wallet\n${chain.wallets.join('\n')}\n`);
    return path;
}

function expect({ status, json, stderr }, wantedStatus, fields) {
    const said = json?.error ?? lastWords(stderr);
    if (status !== wantedStatus) throw new Error(`exit status ${status}, not ${wantedStatus}: ${said}`);
    for (const [name, wanted] of Object.entries(fields)) {
        if (json[name] !== wanted) throw new Error(`${name}: ${json[name]}, not ${wanted} (${said})`);
    }
}

/** Compares every row with direct calls, except those of the wallets `unread`, by number. */
async function sameTotals(program, chain, unread) {
    const rows = program.rows();
    const differing = [];
    for (const [n, wallet] of chain.wallets.entries()) {
        if (unread.includes(n)) continue;
        const total = await chain.total(wallet);
        if (rows.get(wallet) !== total) differing.push(`${wallet} is ${rows.get(wallet)}, not ${total}`);
    }
    if (differing.length > 0) throw new Error(`${differing.length} totals differ: ${differing[0]}`);
}

/** Waits until the condition holds, or the watch has ended, or it has taken too long. */
async function until(milliseconds, failure, watching, condition) {
    for (const end = Date.now() + milliseconds; Date.now() < end; await sleep(100)) {
        if (condition()) return;
        const { exitCode } = watching.child;
        if (exitCode !== null) throw new Error(`exit status ${exitCode}: ${lastWords(await watching.stderr)}`);
    }
    throw new Error(failure);
}

/** What a program says at last on stderr: the panic, if it panicked. */
function lastWords(stderr) {
    const lines = stderr.split('\n');
    return lines.find((line) => line.includes('panicked at')) ?? lines.at(-1);
}
