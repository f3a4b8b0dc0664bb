// The real binary, on one client with one reader and a SQLite file of its own.
import { spawn } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { DatabaseSync } from 'node:sqlite';

const BINARY = new URL('../../target/debug/ethtally', import.meta.url).pathname;
// Longer than any command should take; a command that is still running then is killed, and that is its fault.
const PATIENCE_MS = 120_000;

export class Program {
    constructor(client, chain, reader, work) {
        this.database = `${work}/${reader}.db`;
        for (const end of ['', '-wal', '-shm']) rmSync(this.database + end, { force: true });
        const profile = `${work}/profile.toml`;
        writeFileSync(profile, chain.profile());
        this.settings = [
            '--json', '--rpc-url', client.http, '--database-url', `sqlite:${this.database}`, '--profile', profile,
            '--reader', reader,
        ];
    }

    /** Runs a command to its end: its exit status, its JSON object, and what it printed on stderr. */
    async run(command, ...args) {
        const child = this.start(command, ...args);
        const timer = setTimeout(() => child.kill('SIGKILL'), PATIENCE_MS);
        const [status, lines, stderr] = await Promise.all([ended(child), text(child.stdout), text(child.stderr)]);
        clearTimeout(timer);
        return { status, json: lines ? JSON.parse(lines) : null, stderr };
    }

    /** Starts `watch`; `events` grows with the events that it prints. */
    watch(...args) {
        const child = this.start('watch', ...args);
        const events = [];
        createInterface({ input: child.stdout }).on('line', (line) => events.push(JSON.parse(line)));
        return { child, events, ended: ended(child), stderr: text(child.stderr) };
    }

    start(command, ...args) {
        // No variables of ethtally's: only what is given here counts.
        const env = { PATH: process.env.PATH, HOME: process.env.HOME };
        return spawn(BINARY, [command, ...this.settings, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    }

    /** Every row: wallet → total. */
    rows() {
        return this.query((database) => {
            const rows = database.prepare('select wallet, balance from eth_wallet_balances').all();
            return new Map(rows.map(({ wallet, balance }) => [wallet, BigInt(balance)]));
        });
    }

    /** Makes a row wrong, as a faulty program would. */
    spoil(wallet) {
        this.query((database) => {
            database.prepare("update eth_wallet_balances set balance = '7' where wallet = ?").run(wallet);
        });
    }

    query(work) {
        const database = new DatabaseSync(this.database);
        try {
            database.exec('pragma busy_timeout = 10000');
            return work(database);
        } finally {
            database.close();
        }
    }
}

/** The exit status, or the name of the signal that ended it. */
function ended(child) {
    return new Promise((resolve) => child.on('exit', (status, signal) => resolve(status ?? signal)));
}

async function text(stream) {
    let all = '';
    for await (const part of stream) all += part;
    return all.trim();
}
