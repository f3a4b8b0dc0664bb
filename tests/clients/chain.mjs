// The contracts and wallets that are put on a client's chain. A total is the sum of two tokens' balances; the first
// token can be told to fail for a wallet.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { KEY } from './clients.mjs';
import { sleep } from './rpc.mjs';

const here = (path) => new URL(path, import.meta.url);
const { Interface, Wallet, getCreateAddress, id } = createRequire(here('../../target/clients/ethers/'))('ethers');

const FAULTY_TOKEN = artifact('FaultyToken');
const TOKEN = artifact('Token');
const MULTICALL3 = readFileSync(here('multicall3.hex'), 'utf8').trim();
const ABI = new Interface(FAULTY_TOKEN.abi);
const REVERT = 1; // `Fault.Revert` of FaultyToken.sol
const WALLETS = 300;
// Clients take only so many waiting transactions of one sender; EthereumJS takes 100.
const WAITING = 90;

export class Chain {
    /** Deploys the contracts and gives each wallet something. */
    static async on(client) {
        const chain = new Chain();
        chain.client = client;
        chain.signer = new Wallet(KEY);
        chain.nonce = 0;
        chain.id = Number(await client.rpc.call('eth_chainId'));
        chain.wallets = Array.from({ length: WALLETS }, (_, n) => `0x${id(`wallet ${n}`).slice(-40)}`);
        [chain.multicall3, ...chain.tokens] = await chain.deploy([
            MULTICALL3, creation(FAULTY_TOKEN.deployedBytecode), creation(TOKEN.deployedBytecode),
        ]);
        await chain.send(chain.wallets.flatMap((wallet, n) => {
            const mint = (token) => chain.to(token, 'mint', wallet, 10n ** 18n + BigInt(n));
            return n % 3 ? [mint(0)] : [mint(0), mint(1)];
        }));
        return chain;
    }

    profile() {
        const read = (token) => `[[read]]\ncontract = "${token}"\nfunction = "balanceOf(address)"\n`;
        const event = (token) => `[[event]]\ncontract = "${token}"\nwallets = ["from", "to"]\n`
            + 'event = "Transfer(address indexed from, address indexed to, uint256 value)"\n';
        return `name = "clients"\nchain_id = ${this.id}\nsymbol = "T"\ndecimals = 18\ncheckpoint = "clients"\n`
            + `multicall3 = "${this.multicall3}"\n${this.tokens.map(read).join('')}${this.tokens.map(event).join('')}`;
    }

    /** A wallet's total by plain calls at the newest block; null if one reverts. */
    async total(wallet) {
        let total = 0n;
        for (const to of this.tokens) {
            const data = ABI.encodeFunctionData('balanceOf', [wallet]);
            const answer = await this.client.rpc.call('eth_call', [{ to, data }, 'latest']).catch((error) => {
                if (error.message.includes('revert')) return null;
                throw error;
            });
            if (answer === null) return null;
            total += BigInt(answer);
        }
        return total;
    }

    /** Whether the client takes the code of a state override, which the packed reader needs. */
    async takesOverrides() {
        const to = '0x00000000000000000000000000000000000e7a11';
        const code = '0x600160005260206000f3'; // returns 1
        const call = { to, data: '0x' };
        const answer = await this.client.rpc.call('eth_call', [call, 'latest', { [to]: { code } }]).catch(() => '0x');
        return answer !== '0x' && BigInt(answer) === 1n;
    }

    async head() {
        return Number(await this.client.rpc.call('eth_blockNumber'));
    }

    /** Moves `amount` of the first token from wallet `from` to wallet `to`, by number, in a block of its own. */
    async transfer(from, to, amount) {
        await this.send([this.to(0, 'transferFrom', this.wallets[from], this.wallets[to], amount)]);
    }

    /** Lets reads of wallet `n` revert, or not. */
    async setReverting(n, reverting) {
        await this.send([this.to(0, 'setFault', this.wallets[n], reverting ? REVERT : 0)]);
    }

    to(token, method, ...values) {
        return { to: this.tokens[token], data: ABI.encodeFunctionData(method, values) };
    }

    async deploy(codes) {
        const addresses = codes.map((_, n) => getCreateAddress({ from: this.signer.address, nonce: this.nonce + n }));
        await this.send(codes.map((data) => ({ data, gasLimit: 4_000_000 })));
        return addresses;
    }

    /** Sends transactions and waits until the last one, and so all of them, are in a block. */
    async send(transactions) {
        while (transactions.length > 0) {
            let last;
            for (const transaction of transactions.splice(0, WAITING)) {
                const signed = await this.signer.signTransaction({
                    chainId: this.id, nonce: this.nonce++, type: 0, gasLimit: 150_000, gasPrice: 10n ** 11n,
                    ...transaction,
                });
                last = await this.client.rpc.call('eth_sendRawTransaction', [signed]);
            }
            await this.client.next();
            // Only the last: for a receipt EthereumJS runs the whole block again.
            await this.succeeded(last);
        }
    }

    async succeeded(hash) {
        for (let tries = 0; tries < 100; tries++) {
            const receipt = await this.client.rpc.call('eth_getTransactionReceipt', [hash]);
            if (receipt && Number(receipt.status) === 1) return;
            if (receipt) throw new Error(`transaction ${hash} failed`);
            await sleep(50);
        }
        throw new Error(`transaction ${hash} is in no block`);
    }
}

function artifact(name) {
    return JSON.parse(readFileSync(here(`../testbed/contracts/artifacts/${name}.json`), 'utf8'));
}

/** Creation code that returns `code`: PUSH2 length, DUP1, PUSH1 12, PUSH1 0, CODECOPY, PUSH1 0, RETURN. */
function creation(code) {
    const length = ((code.length - 2) / 2).toString(16).padStart(4, '0');
    return `0x61${length}80600c6000396000f3${code.slice(2)}`;
}
