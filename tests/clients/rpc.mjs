// JSON-RPC over HTTP, and nothing of ethtally: the tests' own view of a client.
export class Rpc {
    constructor(url) {
        this.url = url;
    }

    async call(method, params = []) {
        const response = await fetch(this.url, {
            method: 'POST',
            headers: { 'content-type': 'application/json' },
            body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }),
        });
        const { result, error } = await response.json();
        if (error) throw new Error(`${method}: ${error.message}`);
        return result;
    }
}

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
