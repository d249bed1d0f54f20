DROP INDEX webhook_deliveries_by_age;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_attempt_at) WHERE state = 'pending';
DROP INDEX webhook_deliveries_due_by_webhook;
