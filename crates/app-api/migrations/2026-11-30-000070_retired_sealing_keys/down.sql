DROP TRIGGER refuse_retired_sealing_key ON tenants;
DROP TRIGGER refuse_retired_sealing_key ON apps;
DROP TRIGGER refuse_retired_sealing_key ON registries;
DROP TRIGGER refuse_retired_sealing_key ON second_factors;
DROP TRIGGER refuse_retired_sealing_key ON model_endpoint;
DROP TRIGGER refuse_retired_sealing_key ON mails;
DROP FUNCTION refuse_retired_sealing_key();
DROP TABLE retired_sealing_keys;
