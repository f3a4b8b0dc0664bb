-- What each endpoint took last time, so that the next run need not search anew: hints, which may be wrong or missing.
create table if not exists eth_wallet_node_hints (
    endpoint    text not null,                           -- scheme, host, port, # and 16 bits of a hash of the URL; no key
    kind        text not null,                           -- packed, multicall3: wallets in a call; gzip: compressed requests
    accepted    bigint not null,                         -- the most that it accepted; for gzip 1 or 0
    refused     bigint,                                  -- the least above that which it refused; null for none
    seen_at     timestamp not null,
    primary key (endpoint, kind)
);
