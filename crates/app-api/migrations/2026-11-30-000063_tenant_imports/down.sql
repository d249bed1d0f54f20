DROP TABLE tenant_imports;
