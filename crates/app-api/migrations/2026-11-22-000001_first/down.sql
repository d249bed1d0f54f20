DROP TABLE idempotency_keys, departed, tenants, reset_links, sessions, users, installation;
DROP FUNCTION tenants_revise, tenants_depart, tenants_tell;
