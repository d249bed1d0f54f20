-- Deliveries are claimed per webhook, so that one slow receiver holds up no other.
CREATE INDEX webhook_deliveries_due_by_webhook ON webhook_deliveries (webhook_id, next_attempt_at) WHERE state = 'pending';
DROP INDEX webhook_deliveries_due;
-- Old deliveries are deleted by age and by count.
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (created_at);
