//! The wordings, codes and statuses of nodes and providers, as a table. Where each wording is from stands beside its
//! example.

use crate::rpc::kind::ErrorKind::{
    self, BlockUnavailable, NotUnderstood, QuotaExhausted, RateLimited, Refused, Reverted,
    TimedOut, TooLarge, Unreachable,
};

/// A status by which a gateway refuses, whatever its body says.
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) kind: ErrorKind,
    /// Kinds that the words may say instead.
    pub(super) unless_it_says: &'static [ErrorKind],
}

const fn refusal(status: u16, kind: ErrorKind, unless_it_says: &'static [ErrorKind]) -> Refusal {
    Refusal { status, kind, unless_it_says }
}

/// Statuses that decide first. Redirects are refusals too.
pub(super) const REFUSALS: &[Refusal] = &[
    refusal(401, Refused, &[QuotaExhausted]),
    refusal(402, QuotaExhausted, &[]),
    // PublicNode and others refuse only blocks whose state they do not keep.
    refusal(403, Refused, &[QuotaExhausted, BlockUnavailable]),
    refusal(404, Refused, &[BlockUnavailable]),
    refusal(405, Refused, &[]),
    refusal(406, Refused, &[]),
    refusal(407, Refused, &[]),
    refusal(410, Refused, &[]),
    refusal(413, TooLarge, &[]),
    refusal(414, TooLarge, &[]),
    refusal(415, Refused, &[]),
    refusal(429, RateLimited, &[QuotaExhausted]),
    refusal(451, Refused, &[]),
];

/// Words that mean one kind of failure.
pub(super) struct Wording {
    pub(super) kind: ErrorKind,
    /// Patterns for whole words in lower case.
    pub(super) says: &'static [&'static str],
    /// False if the words are used for other failures too.
    pub(super) is_certain: bool,
    /// True if they say that the state of a block is gone.
    pub(super) is_pruned: bool,
}

const fn says(kind: ErrorKind, says: &'static [&'static str]) -> Wording {
    Wording { kind, says, is_certain: true, is_pruned: false }
}

/// The wordings; the first that is in a message decides.
pub(super) const WORDINGS: &[Wording] = &[
    // Quotas first: their words are a superset of a rate limit's.
    says(
        QuotaExhausted,
        &[
            "payment required",
            "monthly capacity|capacity limit exceeded",
            "(?:daily|monthly|weekly|lifetime)(?: [a-z]+){0,4} (?:quota|limit|allowance|count|credits|requests)",
            "(?:reached|exceeded) (?:the|your)(?: [a-z]+){0,2} free tier",
            "(?:trial|subscription)(?: period)?(?: has| is)? (?:expired|ended|over)|used (?:up )?all (?:of )?your (?:credits|requests|quota)|usage (?:cap|limit) (?:exceeded|reached)",
            "quota (?:is |has been |was )?(?:exhausted|used up|depleted)",
            "(?:ran |run )?out of (?:api |request |compute )?(?:credits|units|quota)",
            "(?:no|insufficient) (?:api |request |compute )?credits(?: left| remaining)?|credits (?:are |have been )?(?:exhausted|used up|depleted)",
        ],
    ),
    says(
        NotUnderstood,
        &[
            "(?:state|block|code)? ?overrides? .{0,60}(?:unsupported|not (?:supported|allowed|available|enabled|implemented)|disabled|invalid)",
        ],
    ),
    // A range that ends behind the newest block that the node has, which is not too wide for that.
    says(
        BlockUnavailable,
        &[
            "beyond (?:the )?(?:current |latest )?(?:head|latest)(?: block)?",
            "(?:greater|higher|larger|newer) than (?:the )?(?:current|latest|head|newest)(?: block)?(?: height| number)?",
            "block (?:number )?is in the future|future block",
            "after last accepted block",
            "upstream height [0-9]+ is less than",
            "cannot query unfinalized data",
            "block ?(?:is )?out ?of ?range(?:error)?",
            "not yet available|not available yet",
            "exceeds maximum proof window",
        ],
    ),
    // Asking for too much, also where the code is a rate limit's (-32005).
    says(
        TooLarge,
        &[
            "query returned more than",
            "exceeds? (?:the )?max(?:imum)?(?: number of)? results",
            "(?:requested )?too many (?:blocks|logs|results)",
            "(?:response|request|query|logs?|results?|blocks?|range) [^.]{0,80}exceeds? (?:the )?(?:limit|max[a-z]*|range)",
            "(?:exceed(?:s|ed)? (?:the )?)?max(?:imum)?(?: rpc)? (?:block )?range(?: limit)?",
            "(?:block|blocks|log|rpc) range(?: is| was)? (?:too|limit|threshold|exceed[a-z]*|greater|larger)",
            "range(?: is)? too (?:large|wide|big)",
            "(?:limited|limit the query) to (?:a |at most )?[0-9][^.]{0,30}(?:range|blocks?)",
            "up to a [0-9,]+ block range",
            "this block range",
            "blocks? distance",
            "(?:allowed|requested)(?: number of)?(?: requested)? blocks is",
            "query must be smaller than size",
            "(?:difference|distance|gap|span) between [^.]{0,40}blocks?|from ?block and to ?block",
            "(?:too many|max(?:imum)? number of) (?:blocks|logs|results|addresses|topics)",
            "exceeded max allowed",
            "specify less number of address(?:es)?",
            "query timeout exceeded",
        ],
    ),
    says(
        RateLimited,
        &[
            "per[ -](?:second|sec|minute|min)",
            "[0-9]+ ?/ ?(?:s|sec|second|m|min|minute)",
            "rate[ _-]?limit(?:s|ed|ing|er)?",
            "request (?:limit|rate)",
            "too many (?:requests|connections|calls)",
            "(?:try again|retry) (?:in|after) [0-9]",
            "(?:try|retry)(?: again)? later|try again (?:soon|shortly)",
            "compute units?|cu limit exceeded",
            "throttl(?:ed|ing|e)|slow(?:ing)? down",
            "(?:rps|throughput|concurrency|concurrent requests?)(?: limit)?",
            "under too much load|overloaded|over capacity|capacity exceeded",
        ],
    ),
    says(
        TooLarge,
        &[
            "out ?of ?gas|memorylimitoog",
            "gas required exceeds|gas (?:cap|limit|allowance)(?: was| is)? (?:exceeded|reached)|gas uint64 overflow",
            "gas floor of",
            "exceeds (?:the )?(?:block|allowed|maximum|max|configured)[a-z ]{0,20} gas(?: limit| cap)?|gas limit [^.]{0,40}(?:exceed(?:s|ed)?|too high)",
            "intrinsic gas (?:too (?:high|low)|exceeds)",
            "(?:execution|evm|query|request|call|transaction) (?:timeout|timed out)|timeout expired",
            "execution aborted|took too long|time ?limit exceeded|(?:memory|step|cpu|execution) limit",
            "deadline exceeded",
            "too (?:large|big|long)|oversized",
            "(?:response|request|body|payload|message|call ?data|content)(?: [a-z]+){0,2} (?:size|length|limit)|exceeds? (?:the )?max(?:imum)? (?:[a-z]+ )?(?:size|length)",
            "exceeded max limit of",
        ],
    ),
    Wording {
        is_pruned: true,
        ..says(
            BlockUnavailable,
            &[
                "missing ?trie ?node(?:exception)?",
                "(?:historical|world|no) state(?: [0-9a-z]+)?(?: is| was)? (?:not |un)?available|required historical state unavailable|historical state",
                "state histor(?:y|ies)",
                "state .{0,120}(?:not available|unavailable|not found|missing)|no state (?:data|found)",
                "prun(?:ed|ing)",
                "(?:already )?discarded for",
                "archiv(?:e|al)(?: state| node| data| requests?| mode)?",
                "lowest height is|lower height [0-9]+",
                "no historical rpc",
                "old data not available",
                "(?:only )?(?:the )?(?:last|latest|most recent) [0-9]+ blocks|(?:too old|older than|earlier than) [^.]{0,40}|is too old|cannot (?:be )?older",
                "failed to load state",
            ],
        )
    },
    says(
        BlockUnavailable,
        &[
            "(?:header|block|block ?hash|body|parent|hash)(?: .{0,100})? (?:(?:is|was) )?(?:not|cannot be|can't be|could not be) found",
            "(?:could not|cannot|can't) (?:find|get|load|retrieve) (?:the )?(?:block|header)",
            "unknown (?:block|header|ancestor)|no (?:block|header) (?:found|with|for)|blocknotfound|headernotfound",
            "not (?:currently )?canonical",
            "resource not found",
            "received invalid block tag|invalid block (?:height|tag|range)",
            "requested (?:epoch|slot|height|block|data) .{0,60}(?:not|null|unavailable)",
            "block .{0,100}(?:does not exist|doesn't exist|not available|unavailable)",
            "(?:still|not|not fully|not yet|initial|currently|is) (?:sync(?:ing|ed)?|behind)",
            "height (?:is )?not available",
        ],
    ),
    says(
        Reverted,
        &[
            "vm execution error|execution (?:failed|halted)",
            "evm error",
            "invalid (?:opcode|jump)|bad instruction|stack (?:under|over)flow",
            "could not be completed due to an exception|vm exception",
        ],
    ),
    says(
        NotUnderstood,
        &[
            "cannot unmarshal",
            "hex string (?:expected|without|has|of)|expected hex string",
            "invalid argument [0-9]|missing value for required argument",
            "(?:unknown|unrecognized|unexpected) (?:field|key|param(?:eter)?|argument)",
            "too many (?:arguments|params|parameters)|(?:wrong|incorrect|invalid) number of (?:arguments|params|parameters)|expects? [0-9]+ (?:arguments|params|parameters)",
            "unexpected object|argument must be|must be (?:a |an |of type )?(?:string|hex[a-z]*)|expected (?:a |an )?(?:string|hex[a-z]*)|received object|missing 0x prefix",
            "invalid type: (?:map|sequence|string|struct)|did not match any variant",
            "(?:invalid|unsupported) (?:[a-z]+ ){0,4}param(?:s|eter|eters)?|invalid block (?:id|identifier|argument)",
            "errors encountered in param|validation errors?",
            "(?:eip-?1898|block ?hash(?:es)?) .{0,40}(?:not supported|unsupported)",
        ],
    ),
    says(
        Refused,
        &[
            "unauthorized|unauthenticated|forbidden|access denied|permission denied",
            "(?:invalid|missing|unknown|expired|disabled) (?:api |access |project )?(?:key|token|credentials)",
            "api[ -]?key",
            "must (?:be authenticated|authenticate)|authentication (?:failed|required)",
            "project id",
            "token is invalid",
            "not (?:included in|available on|supported on) (?:your|the|this)(?: [a-z]+){0,3} (?:plan|tier)",
            "not (?:white|allow)listed|(?:ip|origin|country|address|referer) (?:is |was )?(?:not allowed|blocked|denied)|(?:account|project|key)(?: has been| is| was)? (?:suspended|disabled|blocked|deactivated)",
            "method .{0,60}(?:not (?:found|supported|available|allowed|enabled|exist)|does not exist|is disabled)|unsupported method",
        ],
    ),
    // A gateway without a node, or one whose nodes cannot do this.
    Wording {
        is_certain: false,
        ..says(
            Unreachable,
            &[
                "no (?:available upstreams|backend is currently healthy|healthy upstream)|backend offline",
                "temporar(?:y|ily) (?:internal error|unavailable|overloaded)",
            ],
        )
    },
    // The same words are a rate limit's, a quota's and a range's.
    Wording {
        is_certain: false,
        ..says(
            RateLimited,
            &[
                "limit exceeded",
                "(?:exceeded|reached|exceeds) (?:the|your)(?: [a-z]+){0,2} (?:quota|capacity|limit)|quota exceeded",
            ],
        )
    },
];

/// A code of JSON-RPC.
pub(super) struct Code {
    pub(super) code: i64,
    pub(super) kind: ErrorKind,
    /// False if it is used for several things.
    pub(super) is_certain: bool,
}

const fn code(code: i64, kind: ErrorKind) -> Code {
    Code { code, kind, is_certain: true }
}

const fn vague(code: i64, kind: ErrorKind) -> Code {
    Code { code, kind, is_certain: false }
}

/// Codes, where no words have decided.
pub(super) const CODES: &[Code] = &[
    code(429, RateLimited),
    vague(-32005, RateLimited),
    vague(-32007, RateLimited),
    vague(-32012, RateLimited),
    vague(-32016, RateLimited),
    code(-32015, Reverted),
    vague(-32001, BlockUnavailable),
    vague(-39001, BlockUnavailable),
    code(4444, BlockUnavailable),
    vague(-32002, TooLarge),
    vague(-32008, TooLarge),
    code(-32020, TooLarge),
    code(-32614, TooLarge),
    // Anvil, for a body over its limit.
    vague(-32600, TooLarge),
    code(-32601, Refused),
    vague(-32602, NotUnderstood),
    vague(-32603, Unreachable),
];

/// Statuses, where nothing else has decided; of the others, those from 500 on mean that the endpoint is out of reach.
pub(super) const STATUSES: &[(u16, ErrorKind)] =
    &[(408, TimedOut), (504, TimedOut), (524, TimedOut)];
