-- Counts of the conversations in tenants, as the tenants report them. No text: no column could hold one.
CREATE TABLE conversation_summaries (
    tenant_id        uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    user_id          uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    conversation_id  uuid NOT NULL,
    messages         bigint NOT NULL CHECK (messages >= 0),
    tokens           bigint NOT NULL CHECK (tokens >= 0),
    last_activity_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id, conversation_id)
);
CREATE INDEX conversation_summaries_by_user ON conversation_summaries (user_id);
CREATE INDEX conversation_summaries_by_time ON conversation_summaries (tenant_id, last_activity_at);

-- How far the summaries of each tenant were collected.
CREATE TABLE summary_positions (
    tenant_id uuid PRIMARY KEY REFERENCES tenants ON DELETE CASCADE,
    position  bigint NOT NULL
);
