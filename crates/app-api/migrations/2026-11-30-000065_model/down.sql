DROP TABLE model_usage;
DROP TABLE model_endpoint;
