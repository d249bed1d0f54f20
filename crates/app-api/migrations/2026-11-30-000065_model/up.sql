-- The endpoint of the model that replies in the chat of tenants: one row, or none.
CREATE TABLE model_endpoint (
    only_one            boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    base_url            text NOT NULL,
    model               text NOT NULL,
    -- Encrypted. Null for an endpoint without a key.
    sealed_key          text,
    system_prompt       text,
    max_tokens          integer CHECK (max_tokens > 0),
    requests_per_minute integer NOT NULL CHECK (requests_per_minute > 0),
    tokens_per_day      bigint NOT NULL CHECK (tokens_per_day > 0),
    updated_by          text NOT NULL,
    updated_at          timestamptz NOT NULL
);
-- What each tenant used of it, by days of UTC. Never a text.
CREATE TABLE model_usage (
    tenant_id         uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    day               date NOT NULL,
    requests          bigint NOT NULL,
    prompt_tokens     bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    -- What counts against the quota. A reply under way counts with what it reserved.
    charged_tokens    bigint NOT NULL,
    -- The minute of the last request, since 1970, and the requests in it.
    minute            bigint NOT NULL,
    minute_requests   integer NOT NULL,
    PRIMARY KEY (tenant_id, day)
);
