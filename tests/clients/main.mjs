// Runs every command with every reader on every client, and prints a row for each. Exit status 1 if one is not ok.
import { mkdirSync, rmSync } from 'node:fs';
import { Chain } from './chain.mjs';
import { checkReader } from './checks.mjs';
import { CLIENTS } from './clients.mjs';

const READERS = ['multicall3', 'packed', 'auto'];
const COLUMNS = [11, 9, 17, 11];

const chosen = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(CLIENTS);
const unknown = chosen.find((name) => !CLIENTS[name]);
if (unknown) {
    console.error(`tests/clients/run: no client ${unknown}; the clients are ${Object.keys(CLIENTS).join(', ')}`);
    process.exit(2);
}

let passed = 0;
let failed = 0;
row('client', 'version', 'command', 'reader', 'result');
for (const name of chosen) {
    const work = new URL(`../../target/clients/work/${name}`, import.meta.url).pathname;
    rmSync(work, { recursive: true, force: true });
    mkdirSync(work, { recursive: true });
    let client;
    try {
        client = await CLIENTS[name](work);
        const chain = await Chain.on(client);
        for (const reader of READERS) {
            await checkReader(client, chain, reader, work, (command, result) => {
                result === null ? passed++ : failed++;
                row(client.title, client.version, command, reader, result ?? 'ok');
            });
        }
    } catch (error) {
        failed++;
        row(name, client?.version ?? '-', 'start', '-', error.message);
    } finally {
        client?.stop();
    }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);

function row(...cells) {
    console.log(cells.map((cell, n) => cell.padEnd(COLUMNS[n] ?? 0)).join(' '));
}
